"""Rows without labels, in batches of their own beside those that are trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pefttools.compute.moving import all_moved
from pefttools.compute.processes import rank, world_size
from pefttools.tasks.task import Example
from pefttools.tasks.types import Batch
from pefttools.tuned import TunedModel


class Unlabelled:
    """Batches that follow from their number alone, so that a training that goes on sees what it would have seen.

    Args:
        model: whose task collates them.
        examples: encoded rows; drawn without repetition until all were seen, then anew in another order.
        seed: of the orders.
    """

    def __init__(self, model: TunedModel, examples: Sequence[Example], seed: int) -> None:
        self._model = model
        self._examples = examples
        self._seed = seed
        self._orders: dict[int, list[int]] = {}

    def __call__(self, number: int, rows: int) -> Batch:
        """The batch of a number, on the model's device.

        Args:
            number: of the batch, from 0.
            rows: its size.
        """
        start = (number * world_size() + rank()) * rows
        chosen = [self._examples[self._row(start + offset)] for offset in range(rows)]
        return all_moved(self._model.task.collate(chosen, self._model.processor), self._model.device)

    def _row(self, place: int) -> int:
        epoch, at = divmod(place, len(self._examples))
        if epoch not in self._orders:
            order = list(range(len(self._examples)))
            random.Random(self._seed * 1_000_003 + epoch).shuffle(order)
            self._orders = {e: kept for e, kept in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return self._orders[epoch][at]
