"""How large a batch of bulk work may be while other callers are about."""

from __future__ import annotations

import statistics
from collections import deque

#: seconds for which a caller who asked for a little may ask again
_ABOUT = 5.0
#: batches whose median time counts; some are slow for reasons of their own
_KEPT = 9


class Pace:
    """Bulk work is what one caller asked for that fills a batch and more. It shares no batch with others' rows.

    Who asks for a little meanwhile waits for a batch of bulk work to end, but not for others to run with. So that this
    about doubles his time and no more, such a batch takes no longer than half as much again as his own, and twice what
    he would wait for others.

    Args:
        wait: seconds that rows wait for others.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._few: deque[float] = deque(maxlen=_KEPT)
        self._each: deque[float] = deque(maxlen=_KEPT)
        self._seen = -_ABOUT

    def limit(self, most: int, now: float) -> int:
        """Rows of bulk work that may run together.

        Args:
            most: of any batch.
            now: seconds, of any clock.
        """
        if not self._few or not self._each or now - self._seen > _ABOUT:
            return most
        seconds = 1.5 * statistics.median(self._few) + 2 * self._wait
        return max(1, min(most, int(seconds / statistics.median(self._each))))

    def ran(self, bulk: bool, rows: int, seconds: float, now: float) -> None:
        """Note what a batch took.

        Args:
            bulk: whether it was bulk work.
            rows: in it.
            seconds: that it ran.
            now: when it ended.
        """
        if bulk:
            self._each.append(seconds / rows)
        else:
            self._few.append(seconds)
            self._seen = now
