"""Whose row runs next: start-time fair queueing (Goyal, Vin, Cheng 1996), by the work that rows ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """A row that waits.

    Attributes:
        owner: who asked.
    """

    owner: str

    @property
    def cost(self) -> float:
        """How much work it is, compared to others."""
        ...


RowT = TypeVar("RowT", bound=Waiting)


class Turns:
    """Gives owners their turns: those who ask for little do not wait for those who ask for much.

    Each owner has a virtual time that grows by the work of its rows; the owner with the smallest time is next. One that
    asks after a pause starts at the time of those being served, and has saved nothing up.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._times: dict[str, float] = {}

    def take(self, rows: Sequence[RowT], most: int, fits: Callable[[RowT], bool]) -> list[RowT]:
        """The rows of the next turns.

        Args:
            rows: waiting rows, in order of arrival.
            most: maximum number to take.
            fits: whether a row can go with those that were taken before it; called right before it is taken.
        """
        waiting: dict[str, list[RowT]] = {}
        for row in rows:
            waiting.setdefault(row.owner, []).append(row)
        # Owners with nothing to wait for are forgotten.
        self._times = {owner: time for owner, time in self._times.items() if owner in waiting or time > self._now}
        taken: list[RowT] = []
        while len(taken) < most and waiting:
            owner = min(waiting, key=self._time)  # in a tie, the one that came first
            index = next((place for place, row in enumerate(waiting[owner]) if fits(row)), None)
            if index is None:
                del waiting[owner]
                continue
            row = waiting[owner].pop(index)
            taken.append(row)
            self._now = self._time(owner)
            self._times[owner] = self._now + row.cost
            if not waiting[owner]:
                del waiting[owner]
        return taken

    def _time(self, owner: str) -> float:
        return max(self._times.get(owner, 0.0), self._now)
