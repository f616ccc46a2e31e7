"""What a call is given, as tensors."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pefttools.compute.moving import all_moved
from pefttools.errors import ConfigError
from pefttools.pool.base import ServedBase
from pefttools.tasks import Task
from pefttools.tasks.encoder_decoder import EncoderDecoderTask
from pefttools.tasks.task import Example

#: texts; rows as `predict` takes them; or tensors as the tokenizer gives them
Inputs = Sequence[str] | Sequence[Mapping[str, Any]] | Mapping[str, torch.Tensor]


class Tensors:
    """Makes tensors of inputs.

    Args:
        served: the base, with its tokenizer.
    """

    def __init__(self, served: ServedBase) -> None:
        self._served = served
        #: padding is a state of the tokenizer
        self._alone = threading.Lock()

    def prompts(self, inputs: Any, tasks: Sequence[Task[Any]]) -> dict[str, torch.Tensor]:
        """Left-padded tokens of rows, each written by its own task.

        Raises:
            ConfigError: not as many rows as tasks.
        """
        if len(inputs) != len(tasks):
            raise ConfigError(f"{len(inputs)} rows, but {len(tasks)} adapters: one is needed for each row")
        tokenizer = self._served.tokenizer
        table = [{"input_ids": task.prompt_ids(one, tokenizer)} for task, one in zip(tasks, inputs, strict=True)]
        with self._alone:
            return dict(tokenizer.pad(table, padding_side="left", return_tensors="pt"))

    def read(self, examples: Sequence[Example], task: EncoderDecoderTask[Any]) -> dict[str, torch.Tensor]:
        """Encoded rows as one batch for an encoder, which is put together as any of its tasks does it."""
        with self._alone:
            batch = task.encoder_batch(examples, self._served.tokenizer)
        return all_moved(batch, self._served.device)

    def padded(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Encoded rows, padded on the right to one batch ``[rows, tokens]``."""
        names = ("input_ids", "token_type_ids") if any("token_type_ids" in one for one in examples) else ("input_ids",)
        table = [{name: one.get(name, [0] * len(one["input_ids"])) for name in names} for one in examples]
        with self._alone:
            batch = dict(self._served.tokenizer.pad(table, padding_side="right", return_tensors="pt"))
        return all_moved(batch, self._served.device)

    def of(self, inputs: Inputs, adapters: Sequence[str | None], side: str) -> dict[str, torch.Tensor]:
        """Texts or tensors as tensors ``[rows, tokens]`` on the model's device.

        Args:
            inputs: of a call.
            adapters: name of each row's adapter, to count them.
            side: on which texts are padded.

        Raises:
            ConfigError: no batch, or not as many rows as adapters.
        """
        if isinstance(adapters, str):
            raise ConfigError(f"adapters must be a list, one name or None for each row, not {adapters!r}")
        if isinstance(inputs, Mapping):
            batch = dict(inputs)
        elif isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
            raise ConfigError("inputs must be a list of texts, or tensors as the tokenizer gives them")
        elif not inputs:
            raise ConfigError("an empty batch")
        else:
            with self._alone:
                batch = dict(self._served.tokenizer(list(inputs), padding=True, padding_side=side, return_tensors="pt"))
        types = batch.get("token_type_ids")
        if types is not None and not types.any():
            del batch["token_type_ids"]
        rows = len(batch["input_ids"])
        if rows != len(adapters):
            raise ConfigError(f"{rows} rows, but {len(adapters)} adapters: one is needed for each row")
        if rows == 0:
            raise ConfigError("an empty batch")
        if "attention_mask" not in batch:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return all_moved(batch, self._served.device)


def are_rows(inputs: Inputs) -> bool:
    """Whether they are rows that only their adapters can write as prompts."""
    return not isinstance(inputs, Mapping | str) and bool(inputs) and isinstance(inputs[0], Mapping)
