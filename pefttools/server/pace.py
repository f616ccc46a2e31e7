"""How much bulk work runs in one batch while other callers are about."""

from __future__ import annotations

import math
import statistics
from collections import deque

#: seconds for which a caller who asked for a little may ask again
_ABOUT = 5.0
#: batches whose median time counts; some are slow for reasons of their own
_KEPT = 9


class Pace:
    """Bulk work is what one caller asks for that fills half a batch and more. It shares no batch with others' rows.

    Who asks for a little meanwhile waits for a batch of bulk work to end, but not for others to run with. So that this
    about doubles his time, and no more, such a batch takes no longer than one and a half times his own and twice what
    he would wait for others. That is so from the second batch on after others have come, and for as long as equal work
    takes equal time.

    Args:
        wait: seconds that rows wait for others.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._few: deque[float] = deque(maxlen=_KEPT)
        self._each: deque[float] = deque(maxlen=_KEPT)
        self._seen = -_ABOUT

    def budget(self, now: float) -> float:
        """Bulk work that may run together, in the units of `ran`; infinity where nobody else is about.

        Args:
            now: seconds, of any clock.
        """
        if not self._few or not self._each or now - self._seen > _ABOUT:
            return math.inf
        return (1.5 * statistics.median(self._few) + 2 * self._wait) / statistics.median(self._each)

    def ran(self, bulk: bool, work: float, seconds: float, now: float) -> None:
        """Note what a batch took.

        Args:
            bulk: whether it was bulk work.
            work: how much, padding included.
            seconds: that it ran.
            now: when it ended.
        """
        if bulk:
            self._each.append(seconds / work)
        else:
            self._few.append(seconds)
            self._seen = now
