"""How much bulk work runs in one batch while other callers are active."""

from __future__ import annotations

import math
import statistics
from collections import deque

#: seconds for which a caller with a small request counts as active
_ABOUT = 5.0
#: number of batches whose median time is used; single ones may be slow for other reasons
_KEPT = 9


class Pace:
    """Bulk work is what one caller asks for that fills more than half a batch. It shares no batch with others' rows.

    A caller with a small request in the meantime waits for a batch of bulk work to end, but not for other rows to run
    with. So that this about doubles the caller's time, and no more, a bulk batch takes no longer than one and a half
    times a small batch plus twice the time that rows wait for others. That holds from the second batch on after others
    have come, and as long as equal work takes equal time.

    Args:
        wait: seconds that rows wait for others.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._few: deque[float] = deque(maxlen=_KEPT)
        self._each: deque[float] = deque(maxlen=_KEPT)
        self._seen = -_ABOUT

    def budget(self, now: float) -> float:
        """Bulk work that may run together, in the units of `ran`; infinity if nobody else is active.

        Args:
            now: seconds, on any clock.
        """
        if not self._few or not self._each or now - self._seen > _ABOUT:
            return math.inf
        return (1.5 * statistics.median(self._few) + 2 * self._wait) / statistics.median(self._each)

    def ran(self, bulk: bool, work: float, seconds: float, now: float) -> None:
        """Note what a batch took.

        Args:
            bulk: whether it was bulk work.
            work: how much, padding included.
            seconds: how long it ran.
            now: when it ended.
        """
        if bulk:
            self._each.append(seconds / work)
        else:
            self._few.append(seconds)
            self._seen = now
