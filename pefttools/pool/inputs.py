"""A call's inputs as tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

from pefttools.compute.moving import all_moved
from pefttools.errors import ConfigError
from pefttools.pool.adapter_cache import Resident
from pefttools.pool.base import ServedBase
from pefttools.tasks import Task
from pefttools.tasks.task import Example

#: texts; rows as `predict` takes them; or tensors from the tokenizer
Inputs = Sequence[str | bytes | Mapping[str, Any]] | Mapping[str, torch.Tensor]


class Tensors:
    """Makes tensors of inputs.

    Args:
        served: the base, with its tokenizer.
        base_task: encodes rows without an adapter.
        processor_of: returns the processor that encodes a task's rows.
    """

    def __init__(self, served: ServedBase, base_task: Task[Any], processor_of: Callable[[Task[Any]], Any]) -> None:
        self._served = served
        self._of_base = base_task, processor_of(base_task)
        self.processor_of = processor_of
        #: padding is a state of the tokenizer
        self._alone = threading.Lock()

    def prompts(self, inputs: Any, tasks: Sequence[Task[Any]]) -> dict[str, torch.Tensor]:
        """Left-padded tokens of rows, each formatted by its own task.

        Raises:
            ConfigError: the numbers of rows and tasks differ.
        """
        if len(inputs) != len(tasks):
            raise ConfigError(f"{len(inputs)} rows, but {len(tasks)} adapters: one is needed for each row")
        tokenizer = self._served.tokenizer
        table = [{"input_ids": task.prompt_ids(one, tokenizer)} for task, one in zip(tasks, inputs, strict=True)]
        with self._alone:
            return dict(tokenizer.pad(table, padding_side="left", return_tensors="pt"))

    def encoding(self, row: Resident | None) -> tuple[Task[Any], Any]:
        """The task that encodes a row, and its processor.

        Raises:
            ConfigError: a row without an adapter, on a base that has no task of its own.
        """
        if row is not None:
            return row.prepared.task, row.prepared.processor
        if self._of_base[0].modality != self._served.modality:
            raise ConfigError("on this base, rows without an adapter must be tensors")
        return self._of_base

    def together(self, rows: Sequence[Resident | None]) -> list[list[int]]:
        """Indices of the rows that can be read in one batch."""
        alike: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            task, processor = self.encoding(row)
            alike.setdefault(task.batch_key(processor), []).append(index)
        return list(alike.values())

    def padded(self, examples: Sequence[Example], rows: Sequence[Resident | None]) -> dict[str, torch.Tensor]:
        """Encoded rows that can be read together as one batch, padded on the right.

        Args:
            examples: encoded rows.
            rows: the adapter of each; None for the base.
        """
        task, processor = self.encoding(rows[0])
        with self._alone:
            batch = task.input_batch(examples, processor)
        return all_moved(batch, self._served.device)

    def of(self, inputs: Inputs, adapters: Sequence[str | None], side: str) -> dict[str, torch.Tensor]:
        """Texts or tensors as tensors ``[rows, tokens]`` on the model's device.

        Args:
            inputs: the call's inputs.
            adapters: name of each row's adapter, to check their number.
            side: side on which texts are padded.

        Raises:
            ConfigError: not a batch, or the numbers of rows and adapters differ.
        """
        if self._served.modality != "text" and not isinstance(inputs, Mapping):
            raise ConfigError(
                f"the base reads {self._served.modality}: give tensors from its processor, or use predict"
            )
        if isinstance(adapters, str):
            raise ConfigError(f"adapters must be a list, one name or None for each row, not {adapters!r}")
        if isinstance(inputs, Mapping):
            batch = dict(inputs)
        elif isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
            raise ConfigError("inputs must be a list of texts, or tensors from the tokenizer")
        elif not inputs:
            raise ConfigError("the batch is empty")
        else:
            with self._alone:
                batch = dict(self._served.tokenizer(list(inputs), padding=True, padding_side=side, return_tensors="pt"))
        types = batch.get("token_type_ids")
        if types is not None and not types.any():
            del batch["token_type_ids"]
        if self._served.reads not in batch:
            raise ConfigError(f"inputs need {self._served.reads}, the base's main input")
        rows = len(batch[self._served.reads])
        if rows != len(adapters):
            raise ConfigError(f"{rows} rows, but {len(adapters)} adapters: one is needed for each row")
        if rows == 0:
            raise ConfigError("the batch is empty")
        if "attention_mask" not in batch and self._served.modality == "text":
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return all_moved(batch, self._served.device)


def are_rows(inputs: Inputs) -> bool:
    """Whether they are rows that only their adapters can turn into prompts."""
    return not isinstance(inputs, Mapping | str) and bool(inputs) and isinstance(inputs[0], Mapping)
