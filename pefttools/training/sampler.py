"""Batches of similar length from shuffled windows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from pefttools.tasks.task import Example


class LengthWindowSampler(Sampler[int]):
    """An order of examples in which each run of `batch_size` has similar lengths.

    The examples are shuffled, cut into windows of `window` batches, sorted by length inside each window, cut into
    batches, and the batches are shuffled over the whole epoch. Each example comes exactly once, and neither the order
    of batches nor their company depends on the order in the file. A last batch that is not full comes last.

    Args:
        lengths: length of each example, in tokens.
        batch_size: examples of one optimizer step, over all processes and all parts that it is computed in: the same
            examples make a step, however it is shared out.
        seed: of the shuffling, together with the epoch.
        window: batches per window; 1 gives plain shuffling.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, window: int = 50) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed}-{self.epoch}")
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        # Left out of the sorting, else the last batch would hold the shortest or longest examples.
        remainder = len(order) % self.batch_size
        last = order[len(order) - remainder :]
        order = order[: len(order) - remainder]
        batches: list[list[int]] = []
        size = self.batch_size * self.window
        for start in range(0, len(order), size):
            window = sorted(order[start : start + size], key=self.lengths.__getitem__)
            batches += [window[first : first + self.batch_size] for first in range(0, len(window), self.batch_size)]
        generator.shuffle(batches)
        for batch in batches:
            generator.shuffle(batch)
            yield from batch
        yield from last


def largest_batch(examples: Sequence[Example], sizes: Sequence[int], batch_size: int, shares: int = 1) -> list[Example]:
    """The examples of an epoch's forward pass that take the most, padding included.

    Args:
        examples: of training.
        sizes: see `Task.size`.
        batch_size: examples of one optimizer step.
        shares: forward passes that a step is computed in: parts times processes.
    """
    order = list(LengthWindowSampler(sizes, batch_size, seed=0))
    size = batch_size // shares
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    largest = max(batches, key=lambda batch: len(batch) * max(sizes[index] for index in batch))
    return [examples[index] for index in largest]
