"""Batches of similar length for evaluation, with the results put back in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pefttools.data.mapped import MappedItems
from pefttools.tasks.task import Example, Progress


def input_lengths(examples: Sequence[Example]) -> list[int]:
    """Tokens of each example."""
    if isinstance(examples, MappedItems):
        return examples.lengths("input_ids")
    return [len(example["input_ids"]) for example in examples]


def in_length_order(
    examples: Sequence[Example],
    batch_size: int,
    run: Callable[[list[Example]], Sequence[Any]],
    progress: Progress | None = None,
) -> list[Any]:
    """Call `run` on batches sorted by length, which saves padding, and give one result per example, in order."""
    lengths = input_lengths(examples)
    order = sorted(range(len(examples)), key=lambda index: (-lengths[index], index))
    results: list[Any] = [None] * len(examples)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, result in zip(chosen, run([examples[index] for index in chosen]), strict=True):
            results[index] = result
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    return results
