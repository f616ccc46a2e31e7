"""Batches of similar length for evaluation, with the results put back in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pefttools.tasks.types import Example, Progress


def in_order_of_size(
    examples: Sequence[Example],
    sizes: Sequence[int],
    batch_size: int,
    run: Callable[[list[Example]], Sequence[Any]],
    progress: Progress | None = None,
) -> list[Any]:
    """Call `run` on batches of similar size, which saves padding, and give one result per example, in order.

    Args:
        examples: encoded rows.
        sizes: see `Task.size`.
        batch_size: examples at a time.
        run: gives one result per example of a batch.
        progress: told how far it has come.
    """
    order = sorted(range(len(examples)), key=lambda index: (-sizes[index], index))
    results: list[Any] = [None] * len(examples)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, result in zip(chosen, run([examples[index] for index in chosen]), strict=True):
            results[index] = result
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    return results
