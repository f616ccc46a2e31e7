"""Rows of earlier stages that are kept, as few as a budget allows.

References:
    Vitter, J. S. (1985). Random sampling with a reservoir. ACM Transactions on Mathematical Software 11.
    Chaudhry, A. et al. (2019). On tiny episodic memories in continual learning. https://arxiv.org/abs/1902.10486
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Reservoir(Generic[ItemT]):
    """A uniform sample of all rows that have come by, whatever their number.

    Args:
        size: rows that it keeps at most.
        seed: of the drawing.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._seen = 0
        self._kept: list[ItemT] = []

    def add(self, rows: Iterable[ItemT]) -> None:
        """Let rows come by."""
        for row in rows:
            self._seen += 1
            if len(self._kept) < self._size:
                self._kept.append(row)
            elif (place := self._random.randrange(self._seen)) < self._size:
                self._kept[place] = row

    @property
    def rows(self) -> list[ItemT]:
        """What is kept."""
        return list(self._kept)


class Balanced(Generic[ItemT]):
    """As many rows of every class that has come by as of every other, as far as there are any.

    A row of the largest class makes room for one of a class that has fewer; of a full class, rows are a uniform sample.

    Args:
        size: rows that it keeps at most.
        seed: of the drawing.
        class_of: the class of a row.
    """

    def __init__(self, size: int, seed: int, class_of: Callable[[ItemT], Hashable]) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._class_of = class_of
        self._seen: dict[Hashable, int] = {}
        self._kept: dict[Hashable, list[ItemT]] = {}

    def add(self, rows: Iterable[ItemT]) -> None:
        """Let rows come by."""
        for row in rows:
            name = self._class_of(row)
            own = self._kept.setdefault(name, [])
            self._seen[name] = self._seen.get(name, 0) + 1
            if sum(map(len, self._kept.values())) < self._size:
                own.append(row)
                continue
            largest = max(self._kept.values(), key=len)
            if len(own) < len(largest):
                largest.pop(self._random.randrange(len(largest)))
                own.append(row)
            elif own and (place := self._random.randrange(self._seen[name])) < len(own):
                own[place] = row

    @property
    def rows(self) -> list[ItemT]:
        """What is kept, class by class."""
        return [row for rows in self._kept.values() for row in rows]
