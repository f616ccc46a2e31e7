"""Batches of similar length from shuffled windows."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from torch.utils.data import Sampler

from pefttools.tasks.task import Example, Task


class LengthWindowSampler(Sampler[int]):
    """An order of examples in which each run of `batch_size` has similar lengths.

    The examples are shuffled, cut into windows of `window` batches, sorted by length inside each window, cut into
    batches, and the batches are shuffled over the whole epoch. Each example comes exactly once, and neither the order
    of batches nor which examples share one depends on the order in the file. A last batch that is not full comes last.

    Examples that are kept together are shuffled and sorted in twos, so that few of them are alone in a batch. If two
    examples that are kept apart are in the same batch, one of them is exchanged for another that is near in length.

    Args:
        lengths: length of each example, in tokens.
        batch_size: examples of one optimizer step, over all processes and all parts that it is computed in: the same
            examples make a step, however it is distributed.
        seed: seed of the shuffling, together with the epoch.
        window: batches per window; 1 gives plain shuffling.
        together: per example, a key shared by those that should be in the same batch; None if there are none.
        apart: per example, a key shared by those that should be in different batches of a window; None if there are
            none.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        window: int = 50,
        together: Sequence[Hashable] | None = None,
        apart: Sequence[Hashable] | None = None,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.together = together
        self.apart = apart
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed}-{self.epoch}")
        order, sort_by = self._order(generator)
        # Left out of the sorting, else the last batch would hold the shortest or longest examples.
        remainder = len(order) % self.batch_size
        last = order[len(order) - remainder :]
        order = order[: len(order) - remainder]
        batches: list[list[int]] = []
        size = self.batch_size * self.window
        for start in range(0, len(order), size):
            batches += self._batches(sorted(order[start : start + size], key=sort_by))
        generator.shuffle(batches)
        for batch in batches:
            generator.shuffle(batch)
            yield from batch
        yield from last

    def _order(self, generator: random.Random) -> tuple[list[int], Callable[[int], Any]]:
        """All examples, shuffled, those that are kept together in twos; and what a window of them is sorted by."""
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        if self.together is None:
            return order, self.lengths.__getitem__
        waiting: dict[Hashable, int] = {}
        units: list[tuple[int, ...]] = []
        for index in order:
            key = self.together[index]
            if key in waiting:
                units.append((waiting.pop(key), index))
            else:
                waiting[key] = index
        units += [(index,) for index in waiting.values()]
        generator.shuffle(units)
        # Those that are left alone come last in a window, so that no pair is split there.
        keys = {
            index: (len(unit) == 1, max(self.lengths[one] for one in unit), number)
            for number, unit in enumerate(units)
            for index in unit
        }
        return [index for unit in units for index in unit], keys.__getitem__

    def _batches(self, window: list[int]) -> list[list[int]]:
        """A sorted window, cut; an example goes to the first batch with room and none that it must be apart from."""
        size = self.batch_size
        if self.apart is None:
            return [window[first : first + size] for first in range(0, len(window), size)]
        batches: list[list[int]] = [[] for _ in range(len(window) // size)]
        keys: list[set[Hashable]] = [set() for _ in batches]
        full = 0
        for index in window:
            key = self.apart[index]
            open_ = [one for one in range(full, len(batches)) if len(batches[one]) < size]
            chosen = next((one for one in open_ if key is None or key not in keys[one]), open_[0])
            batches[chosen].append(index)
            keys[chosen].add(key)
            while full < len(batches) and len(batches[full]) == size:
                full += 1
        return batches


def company(
    task: Task[Any], examples: Sequence[Example], *, by_label: bool = False
) -> tuple[list[Hashable] | None, list[Hashable] | None]:
    """Per example, what it is kept together with, and what it is kept apart from; None if there is no such thing.

    Args:
        task: of the training.
        examples: training examples.
        by_label: whether those of one label are kept together.
    """
    if by_label:
        return [int(one["labels"]) for one in examples], None
    if not task.loss_over_batch:
        return None, None
    together, apart = (
        [choose(examples[index]) for index in range(len(examples))] for choose in (task.kept_together, task.kept_apart)
    )
    return (
        None if all(one is None for one in together) else together,
        None if all(one is None for one in apart) else apart,
    )


def largest_batch(examples: Sequence[Example], sizes: Sequence[int], batch_size: int, shares: int = 1) -> list[Example]:
    """The examples of an epoch's forward pass that take the most, padding included.

    Args:
        examples: training examples.
        sizes: see `Task.size`.
        batch_size: examples of one optimizer step.
        shares: number of forward passes that a step is computed in: parts times processes.
    """
    order = list(LengthWindowSampler(sizes, batch_size, seed=0))
    size = batch_size // shares
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    largest = max(batches, key=lambda batch: len(batch) * max(sizes[index] for index in batch))
    return [examples[index] for index in largest]
