"""Slots of a family: which are free, and room for more by doubling."""

from __future__ import annotations

FIRST = 8


class Slots:
    """Numbers from 1; slot 0 belongs to the base.

    Args:
        limit: maximum number of slots, including the base's.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.capacity = min(FIRST, limit)
        self._free = list(range(self.capacity - 1, 0, -1))

    @property
    def full(self) -> bool:
        """Whether a new adapter needs room first."""
        return not self._free

    @property
    def empty(self) -> bool:
        """Whether no adapter has a slot."""
        return len(self._free) == self.capacity - 1

    def next_capacity(self) -> int:
        """Capacity after growing once."""
        return min(2 * self.capacity, self.limit)

    def grow(self) -> None:
        """Double the room."""
        old, self.capacity = self.capacity, self.next_capacity()
        self._free = list(range(self.capacity - 1, old - 1, -1)) + self._free

    def take(self) -> int:
        """A free slot."""
        return self._free.pop()

    def give(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)
