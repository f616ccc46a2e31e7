"""Rows of which the model reads several parts, each by the row's own adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttools.pool.adapter_cache import Resident
from pefttools.pool.inputs import Tensors
from pefttools.pool.running import Runner, fetched
from pefttools.tasks.batches import by_size
from pefttools.tasks.parts import joined
from pefttools.tasks.task import Example


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
