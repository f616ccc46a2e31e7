"""Predictions for rows, each by its own adapter, be they read in several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pefttools.asking import example_of
from pefttools.errors import ConfigError
from pefttools.pool.adapter_cache import Resident
from pefttools.pool.inputs import Tensors
from pefttools.pool.running import Runner, fetched
from pefttools.tasks.batches import by_size
from pefttools.tasks.evaluation import Prediction
from pefttools.tasks.parts import joined
from pefttools.tasks.task import Example


def predictions(
    runner: Runner,
    tensors: Tensors,
    tokenizer: Any,
    inputs: Sequence[str | Mapping[str, Any]],
    held: Sequence[Resident | None],
    batch_size: int,
) -> list[Prediction]:
    """What each row's adapter says of it; arguments as `AdapterPool.predict` and `logits_of_rows` have them.

    Raises:
        DataError: a row that its adapter can't take.
        ConfigError: the base, or an adapter that continues texts.
    """
    rows = [row for row in held if row is not None and not row.prepared.task.generates]
    if len(rows) < len(held):
        raise ConfigError("the base, and adapters that continue texts, have no prediction head: use generate")
    examples = [
        example_of(one, row.prepared.task, tokenizer, row.prepared.labels, row.prepared.roles)
        for one, row in zip(inputs, rows, strict=True)
    ]
    logits = logits_of_rows(runner, tensors, examples, rows, batch_size)
    return [row.prediction(given, one) for row, given, one in zip(rows, logits, examples, strict=True)]


def logits_of_rows(
    runner: Runner, tensors: Tensors, examples: Sequence[Example], rows: Sequence[Resident], batch_size: int
) -> list[torch.Tensor | None]:
    """What the parts of each row say, one behind the other; None where a logit is not a number.

    Args:
        runner: runs batches.
        tensors: makes them.
        examples: encoded rows.
        rows: the adapter of each.
        batch_size: parts at a time, of any rows and adapters, of similar sizes.
    """
    taken = [row.prepared.task.parts(one) for row, one in zip(rows, examples, strict=True)]
    flat = [(row, part) for row, parts in zip(rows, taken, strict=True) for part in parts]
    found: list[torch.Tensor | None] = [None] * len(flat)
    for chosen in by_size([row.prepared.task.size(part) for row, part in flat], batch_size):
        owners, batch = zip(*(flat[index] for index in chosen), strict=True)
        answers = fetched(runner.answer(owners, tensors.padded(batch)))
        for index, one in zip(chosen, answers, strict=True):
            found[index] = one
    given = iter(found)
    return [joined([next(given) for _ in parts]) for parts in taken]
