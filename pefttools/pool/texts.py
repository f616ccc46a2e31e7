"""Texts from rows whose adapters are resident: continued by a decoder, or written by an encoder-decoder model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pefttools.errors import ConfigError
from pefttools.pool.adapter_cache import Resident
from pefttools.pool.base import ServedBase
from pefttools.pool.inputs import Inputs, Tensors, are_rows
from pefttools.pool.running import Runner
from pefttools.predicting import example_of
from pefttools.tasks import Task
from pefttools.tasks.batches import by_size
from pefttools.tasks.language.allowed import AllowedAnswers, OnlyAllowed
from pefttools.tasks.language.generation import TextPrediction, answer_text, end_tokens
from pefttools.tasks.task import Example

#: new tokens of a text that is continued, if the caller does not say
_NEW_TOKENS = 32
#: options of ``generate`` for some of the rows, given their indices
OptionsOf = Callable[[Sequence[int]], dict[str, Any]]


class Texts:
    """Generates texts.

    Args:
        served: the base.
        runner: runs it.
        tensors: makes batches of inputs.
    """

    def __init__(self, served: ServedBase, runner: Runner, tensors: Tensors) -> None:
        self._served = served
        self._runner = runner
        self._tensors = tensors
        #: for each task that was asked: what it may write
        self._allowed: WeakKeyDictionary[Task[Any], AllowedAnswers | None] = WeakKeyDictionary()

    def only_allowed(self, tasks: Sequence[Any], starts: Sequence[int]) -> list[OnlyAllowed]:
        """The processor of logits that keeps rows to their tasks' allowed answers; empty if there are none.

        Args:
            tasks: each row's task; None for the base.
            starts: where each row's answer begins in its tokens.
        """
        for task in tasks:
            if task is not None and task not in self._allowed:
                own = self._tensors.processor_of(task)
                self._allowed[task] = task.only_answers(own, self.ends(task))
        rows = [None if task is None else self._allowed[task] for task in tasks]
        return [OnlyAllowed(rows, starts)] if any(row is not None for row in rows) else []

    def ends(self, task: Task[Any] | None) -> list[int]:
        """Tokens that end an answer of a task; without a task, of the base itself."""
        own = [] if task is None else task.answer_ends(self._tensors.processor_of(task))
        return sorted({*own, *end_tokens(self._served.model)})

    def continued(
        self, rows: Sequence[Resident | None], adapters: Sequence[str | None], inputs: Inputs, max_new_tokens: Any,
        num_beams: int | None, sampling: Any, given: Sequence[int], options: dict[str, Any],
        written: Sequence[int] = (),
    ) -> tuple[torch.Tensor, list[list[int]]]:  # fmt: skip
        """New tokens ``[rows, new]`` after prompts, and per row the tokens that end it.

        Args:
            rows: each row's adapter; None for the base.
            adapters: their names.
            inputs: see `AdapterPool.generate`, also for what follows.
            max_new_tokens: one for all rows or per row.
            num_beams: beams per row.
            sampling: one for all rows or per row.
            given: tokens that end a row, besides those of base and task.
            options: options of transformers' ``generate``.
            written: how many tokens at the end of each prompt belong to its answer; empty for none.
        """
        if are_rows(inputs):  # only the rows' adapters can format them
            inputs = self._tensors.prompts(inputs, [self._task(row) for row in rows])
        batch = self._tensors.of(inputs, adapters, "left")
        ends = [sorted({*given, *self.ends(None if row is None else row.prepared.task)}) for row in rows]
        tasks = [None if row is None else row.prepared.task for row in rows]
        lengths = [
            given if given is not None else _NEW_TOKENS if task is None else task.new_tokens(_NEW_TOKENS)
            for task, given in zip(tasks, per_row("max_new_tokens", max_new_tokens, len(rows)), strict=True)
        ]
        drawn = per_row("sampling", sampling, len(rows))
        prompt = batch["input_ids"].shape[1]
        only = self.only_allowed(tasks, [prompt - begun for begun in written or [0] * len(rows)])
        tokens = self._runner.generate(
            rows, batch, max_new_tokens=lengths, num_beams=num_beams or 1, sampling=drawn, ends=ends,
            **_and_only(options, only),
        )  # fmt: skip
        return tokens, ends

    def encoded(self, rows: Sequence[Resident | None], inputs: Any) -> list[Example]:
        """An encoder's inputs for texts, files or rows, each encoded by its adapter's task.

        Raises:
            ConfigError: something else, or not one per adapter.
            DataError: a row that its adapter can't take.
        """
        if isinstance(inputs, Mapping | str) or len(inputs) != len(rows):
            raise ConfigError("inputs must be a list of texts or rows, one for each adapter")
        return [
            example_of(one, *self._tensors.encoding(row), (), () if row is None else row.prepared.roles)
            for one, row in zip(inputs, rows, strict=True)
        ]

    def predicted(
        self, rows: Sequence[Resident | None], inputs: Sequence[Any], batch_size: int
    ) -> list[TextPrediction]:
        """What each row's adapter writes, as in its evaluation; arguments as in `AdapterPool.predict`."""
        examples = self.encoded(rows, inputs)
        sizes = [self._task(row).size(example) for row, example in zip(rows, examples, strict=True)]
        found: dict[int, TextPrediction] = {}
        for own in by_size(sizes, batch_size):
            some = [rows[index] for index in own]
            tokens, ends = self.written(
                some, [examples[index] for index in own], None, None, None, (), lambda chosen: {}
            )
            for index, new, last in zip(own, tokens.tolist(), ends, strict=True):
                found[index] = TextPrediction(answer_text(new, self._served.tokenizer, last).strip())
        return [found[index] for index in range(len(rows))]

    def written(
        self, rows: Sequence[Resident | None], examples: Sequence[Example], max_new_tokens: Any,
        num_beams: int | None, sampling: Any, given: Sequence[int], options: OptionsOf,
        begun: Sequence[Sequence[int]] = (),
    ) -> tuple[torch.Tensor, list[list[int]]]:  # fmt: skip
        """New tokens ``[rows, new]`` of an encoder-decoder model.

        Args:
            rows: each row's adapter; None for the base.
            examples: encoded rows.
            max_new_tokens: one for all rows or per row; None for what each adapter was evaluated with.
            num_beams: the same.
            sampling: one for all rows or per row.
            given: tokens that end a row, besides those of base and task.
            options: options of transformers' ``generate``.
            begun: tokens of each row that were written before; empty for a new answer.
        """
        tasks = [self._task(row) for row in rows]
        lengths = per_row("max_new_tokens", max_new_tokens, len(rows))
        drawn = per_row("sampling", sampling, len(rows))
        ends = [sorted({*given, *self.ends(task)}) for task in tasks]
        opened = [
            task.opening(self._served.config, self._tensors.encoding(row)[1])
            for task, row in zip(tasks, rows, strict=True)
        ]
        found: dict[int, torch.Tensor] = {}
        for own in self._tensors.together(rows):
            some = [rows[index] for index in own]
            tokens = self._runner.write(
                some,
                self._tensors.padded([examples[index] for index in own], some),
                begun=[[*opened[index], *(begun[index] if begun else ())] for index in own],
                max_new_tokens=[
                    tasks[index].options.max_new_tokens if lengths[index] is None else lengths[index] for index in own
                ],
                num_beams=[num_beams or tasks[index].options.beams for index in own],
                sampling=[drawn[index] for index in own],
                ends=[ends[index] for index in own],
                options=partial(self._options_of, options, own, tasks, [len(one) for one in opened]),
            )
            found.update(zip(own, tokens, strict=True))
        pad = float(self._served.tokenizer.pad_token_id)
        rows_of_tokens = [found[index] for index in range(len(rows))]
        return torch.nn.utils.rnn.pad_sequence(rows_of_tokens, batch_first=True, padding_value=pad), ends

    def _options_of(
        self, options: OptionsOf, own: Sequence[int], tasks: Sequence[Any], starts: Sequence[int], places: Sequence[int]
    ) -> dict[str, Any]:
        """Options of ``generate`` for rows at some places among some of all rows."""
        chosen = [own[place] for place in places]
        only = self.only_allowed([tasks[index] for index in chosen], [starts[index] for index in chosen])
        return _and_only(options(chosen), only)

    def _task(self, row: Resident | None) -> Any:
        """The task that encodes a row."""
        task, _ = self._tensors.encoding(row)
        named = None if row is None else row.name
        if (why := self._served.why_not_generated(named, language=task.generates)) is not None:
            raise ConfigError(why)
        return task


def _and_only(options: dict[str, Any], only: Sequence[OnlyAllowed]) -> dict[str, Any]:
    """Options of ``generate`` with more processors of logits, after those that are there."""
    return options if not only else {**options, "logits_processor": [*options.get("logits_processor", ()), *only]}


def per_row(name: str, given: Any, rows: int) -> list[Any]:
    """One value per row, from one for all or one for each.

    Raises:
        ConfigError: their number is not that of the rows.
    """
    if isinstance(given, Sequence):
        if len(given) != rows:
            raise ConfigError(f"{len(given)} values of {name} for {rows} rows")
        return list(given)
    return [given] * rows
