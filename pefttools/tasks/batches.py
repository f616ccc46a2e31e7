"""Batches of similar length for evaluation, with the results put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        progress: called with the number of examples done and in total.
    """
    results: list[Any] = [None] * len(examples)
    done = 0
    for chosen in by_size(sizes, batch_size):
        for index, result in zip(chosen, run([examples[index] for index in chosen]), strict=True):
            results[index] = result
        done += len(chosen)
        if progress is not None:
            progress(done, len(examples))
    return results


def by_size(sizes: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of batches of similar size, the largest first."""
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
