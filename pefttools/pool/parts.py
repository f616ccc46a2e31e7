"""Predictions for rows, each by its own adapter, even if a row is read in several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from pefttools.errors import ConfigError
from pefttools.pool.adapter_cache import Resident
from pefttools.pool.inputs import Tensors
from pefttools.pool.running import Answer, Runner, fetched
from pefttools.pool.texts import Texts
from pefttools.predicting import example_of
from pefttools.tasks.batches import by_size
from pefttools.tasks.evaluation import Prediction
from pefttools.tasks.parts import joined
from pefttools.tasks.task import Example


def predictions(
    runner: Runner,
    tensors: Tensors,
    texts: Texts,
    inputs: Sequence[str | Mapping[str, Any]],
    held: Sequence[Resident | None],
    batch_size: int,
) -> list[Prediction]:
    """What each row's adapter predicts or writes; arguments as in `AdapterPool.predict` and `logits_of_rows`.

    Raises:
        DataError: a row that its adapter can't take.
        ConfigError: the base, or an adapter that continues texts.
    """
    rows = [row for row in held if row is not None]
    tasks = [row.prepared.task for row in rows]
    if len(rows) < len(held) or any(task.generates and not task.encoder_decoder for task in tasks):
        raise ConfigError("the base, and adapters that continue texts, have no prediction head: use generate")
    writers = [index for index, task in enumerate(tasks) if task.encoder_decoder]
    others = [index for index, task in enumerate(tasks) if not task.encoder_decoder]
    found: dict[int, Prediction] = {}
    for places, work in ((writers, texts.predicted), (others, partial(_by_heads, runner, tensors))):
        own, given = [rows[index] for index in places], [inputs[index] for index in places]
        found.update(zip(places, work(own, given, batch_size), strict=True))
    return [found[index] for index in range(len(rows))]


def _by_heads(
    runner: Runner, tensors: Tensors, rows: Sequence[Resident], inputs: Sequence[str | Mapping[str, Any]],
    batch_size: int,
) -> list[Prediction]:  # fmt: skip
    """The prediction of each row by its adapter's head."""
    examples = [
        example_of(one, row.prepared.task, row.prepared.processor, row.prepared.labels, row.prepared.roles)
        for one, row in zip(inputs, rows, strict=True)
    ]
    logits = logits_of_rows(runner, tensors, examples, rows, batch_size)
    return [row.prediction(given, one) for row, given, one in zip(rows, logits, examples, strict=True)]


def answers_of(
    runner: Runner, tensors: Tensors, examples: Sequence[Example], rows: Sequence[Resident | None]
) -> list[Answer]:
    """One answer per encoded row; rows that can share a batch do.

    Raises:
        ConfigError: rows that can't be served.
    """
    found: dict[int, Answer] = {}
    for own in tensors.together(rows):
        some = [rows[index] for index in own]
        batch = tensors.padded([examples[index] for index in own], some)
        found.update(zip(own, runner.answer(some, batch), strict=True))
    return [found[index] for index in range(len(rows))]


def logits_of_rows(
    runner: Runner, tensors: Tensors, examples: Sequence[Example], rows: Sequence[Resident], batch_size: int
) -> list[torch.Tensor | None]:
    """The logits of each row's parts, concatenated; None if a logit is not finite.

    Args:
        runner: runs batches.
        tensors: makes them.
        examples: encoded rows.
        rows: the adapter of each.
        batch_size: parts at a time, from any rows and adapters, of similar sizes.
    """
    taken = [row.prepared.task.parts(one) for row, one in zip(rows, examples, strict=True)]
    flat = [(row, part) for row, parts in zip(rows, taken, strict=True) for part in parts]
    found: list[torch.Tensor | None] = [None] * len(flat)
    for chosen in by_size([row.prepared.task.size(part) for row, part in flat], batch_size):
        owners, batch = zip(*(flat[index] for index in chosen), strict=True)
        for index, one in zip(chosen, fetched(answers_of(runner, tensors, batch, owners)), strict=True):
            found[index] = one
    given = iter(found)
    return [joined([next(given) for _ in parts]) for parts in taken]
