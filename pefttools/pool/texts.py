"""Texts from rows whose adapters are resident: continued by a decoder, or written by one beside an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pefttools.asking import example_of
from pefttools.errors import ConfigError
from pefttools.pool.adapter_cache import Resident
from pefttools.pool.base import ServedBase
from pefttools.pool.inputs import Inputs, Tensors, are_rows
from pefttools.pool.running import Runner
from pefttools.tasks import Task
from pefttools.tasks.encoder_decoder import EncoderDecoderTask
from pefttools.tasks.generation import end_tokens
from pefttools.tasks.task import Example
from pefttools.tasks.unadapted import base_task

#: new tokens of a text that is continued, where the caller does not say
_NEW_TOKENS = 32
#: options of ``generate`` for some of the rows, by their places
OptionsOf = Callable[[Sequence[int]], dict[str, Any]]


class Texts:
    """Generates texts.

    Args:
        served: the base.
        runner: runs it.
        tensors: makes batches of what is given.
    """

    def __init__(self, served: ServedBase, runner: Runner, tensors: Tensors) -> None:
        self._served = served
        self._runner = runner
        self._tensors = tensors
        #: encodes the rows without an adapter
        self.base_task: Task[Any] = base_task(encoder_decoder=served.encoder_decoder)

    def ends(self, task: Task[Any] | None) -> list[int]:
        """Tokens that end an answer of a task; without a task, of the base."""
        own = [] if task is None else task.answer_ends(self._served.tokenizer)
        return sorted({*own, *end_tokens(self._served.model)})

    def continued(
        self, rows: Sequence[Resident | None], adapters: Sequence[str | None], inputs: Inputs, max_new_tokens: Any,
        num_beams: int | None, sampling: Any, given: Sequence[int], options: dict[str, Any],
    ) -> tuple[torch.Tensor, list[list[int]]]:  # fmt: skip
        """New tokens ``[rows, new]`` after prompts, and per row the tokens that end it; see `AdapterPool.generate`."""
        if are_rows(inputs):  # only the rows' adapters can write it
            inputs = self._tensors.prompts(inputs, [self._task(row) for row in rows])
        batch = self._tensors.of(inputs, adapters, "left")
        ends = [sorted({*given, *self.ends(None if row is None else row.prepared.task)}) for row in rows]
        lengths = per_row("max_new_tokens", _NEW_TOKENS if max_new_tokens is None else max_new_tokens, len(rows))
        drawn = per_row("sampling", sampling, len(rows))
        tokens = self._runner.generate(
            rows, batch, max_new_tokens=lengths, num_beams=num_beams or 1, sampling=drawn, ends=ends, **options
        )
        return tokens, ends

    def encoded(self, rows: Sequence[Resident | None], inputs: Any) -> list[Example]:
        """What an encoder reads of texts or rows, each encoded by its adapter's task.

        Raises:
            ConfigError: something else, or not as many as adapters.
            DataError: a row that its adapter can't take.
        """
        if isinstance(inputs, Mapping | str) or len(inputs) != len(rows):
            raise ConfigError("inputs must be a list of texts or rows, as many as adapters")
        return [
            example_of(one, self._task(row), self._served.tokenizer, (), () if row is None else row.prepared.roles)
            for one, row in zip(inputs, rows, strict=True)
        ]

    def written(
        self, rows: Sequence[Resident | None], examples: Sequence[Example], max_new_tokens: Any,
        num_beams: int | None, sampling: Any, given: Sequence[int], options: OptionsOf,
        begun: Sequence[Sequence[int]] = (),
    ) -> tuple[torch.Tensor, list[list[int]]]:  # fmt: skip
        """New tokens ``[rows, new]`` of a decoder that writes apart from what its encoder reads.

        Args:
            rows: each row's adapter; None: the base.
            examples: encoded rows.
            max_new_tokens: for all rows alike or per row; None: what each adapter was evaluated with.
            num_beams: the same.
            sampling: for all rows alike or per row.
            given: tokens that end a row, besides those of base and task.
            options: of transformers' ``generate``.
            begun: tokens of each row that were written before; none: it begins.
        """
        tasks = [self._task(row) for row in rows]
        lengths = per_row("max_new_tokens", max_new_tokens, len(rows))
        ends = [sorted({*given, *self.ends(task)}) for task in tasks]
        tokens = self._runner.write(
            rows,
            self._tensors.read(examples, tasks[0]),
            begun=[
                [*task.opening(self._served.config, self._served.tokenizer), *(begun[index] if begun else ())]
                for index, task in enumerate(tasks)
            ],
            max_new_tokens=[
                task.options.max_new_tokens if length is None else length
                for task, length in zip(tasks, lengths, strict=True)
            ],
            num_beams=[num_beams or task.options.beams for task in tasks],
            sampling=per_row("sampling", sampling, len(rows)),
            ends=ends,
            options=options,
        )
        return tokens, ends

    def _task(self, row: Resident | None) -> Any:
        """Who encodes a row."""
        task = self.base_task if row is None else row.prepared.task
        assert task.encoder_decoder == self._served.encoder_decoder == isinstance(task, EncoderDecoderTask)
        return task


def per_row(name: str, given: Any, rows: int) -> list[Any]:
    """One value per row, of one for all or one for each.

    Raises:
        ConfigError: another number of them.
    """
    if isinstance(given, Sequence):
        if len(given) != rows:
            raise ConfigError(f"{len(given)} values of {name} for {rows} rows")
        return list(given)
    return [given] * rows
