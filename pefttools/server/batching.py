"""Batching: rows of different requests run together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from pefttools.errors import PeftToolsError
from pefttools.server.fair import Turns
from pefttools.server.pace import Pace

#: seconds that a running batch has to notice that its rows were dropped
_LAST = 1.0


class QueueFullError(PeftToolsError):
    """More rows are waiting than allowed: HTTP 429."""


class ClosedError(PeftToolsError):
    """The server is stopping: HTTP 503."""


@dataclass(eq=False)
class WaitingRow:
    """One row that waits for its answer.

    Attributes:
        kind: rows of one kind run together.
        adapter: name of its adapter in the pool; None for the base.
        work: what the runner needs to know.
        owner: who asked; owners take turns.
        size: how much work it is, compared to others.
        cancelled: nobody is waiting for it any more.
        goes_on: it was begun in an earlier batch.
        bulk: its owner asks for more than half a batch; see `Pace`.
    """

    kind: str
    adapter: str | None
    work: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    owner: str = ""
    size: float = 1.0
    since: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    goes_on: bool = False
    bulk: bool = False

    @property
    def cost(self) -> float:
        """What its owner's turn is charged for it: nothing if it continues from an earlier batch."""
        return 0.0 if self.goes_on else self.size

    def finish(self, result: Any) -> None:
        """Hand the answer, or an exception, to whoever is waiting."""

        def settle() -> None:
            if self.future.done():
                return
            if isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self.loop.call_soon_threadsafe(settle)


class Batcher:
    """A queue and one thread that runs what is in it, batch by batch.

    Args:
        run: takes the rows of one batch and finishes each.
        max_batch: maximum number of rows in a batch.
        max_adapters: maximum number of different adapters in a batch.
        max_wait: seconds that the first row of a batch waits for others.
        max_queue: maximum number of waiting rows of one owner.
        max_run: seconds after which a batch that can be resumed later gives way to waiting rows.
        whole: kinds whose batches can't be resumed; while others wait, `Pace` keeps their bulk batches short.
    """

    def __init__(
        self,
        run: Callable[[Sequence[WaitingRow]], None],
        *,
        max_batch: int,
        max_adapters: int,
        max_wait: float,
        max_queue: int,
        max_run: float,
        whole: Collection[str] = (),
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_adapters = max_adapters
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._max_run = max_run
        self._paces = {kind: Pace(max_wait) for kind in whole}
        self._rows: list[WaitingRow] = []
        self._turns = Turns()
        self._changed = threading.Condition()
        self._closed = False
        self._batch: Sequence[WaitingRow] = ()
        self._last: Sequence[WaitingRow] = ()
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="pefttools-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of rows in the queue."""
        return len(self._rows)

    def beat(self) -> None:
        """Note that the running batch is making progress."""
        if self._running_since is not None:
            self._running_since = time.monotonic()

    def gives_way(self, seconds: float, rows: int) -> bool:
        """Whether the running batch should stop here and be queued again, for the sake of waiting rows.

        Those belong to owners with no row in the batch, or the batch has room for them.

        Args:
            seconds: how long it has made progress, without the work that is repeated each time it resumes.
            rows: number of rows that are not finished.
        """
        if seconds <= self._max_run:
            return False
        owners = {row.owner for row in self._batch}
        room = rows < self._max_batch
        return any(
            not row.cancelled and (row.owner not in owners or (room and not row.goes_on)) for row in list(self._rows)
        )

    def again(self, rows: Sequence[WaitingRow]) -> None:
        """Queue rows of the running batch again, behind those that wait; their work is counted already."""
        for row in rows:
            row.goes_on = True
        with self._changed:
            self._rows.extend(rows)

    @property
    def stalled(self) -> float:
        """Seconds without a sign of life from the running batch; infinity if the thread that runs batches has died."""
        since = self._running_since
        if not self._thread.is_alive():
            return math.inf
        return 0.0 if since is None else time.monotonic() - since

    def submit(
        self, kind: str, adapter: str | None, works: Sequence[Any], owner: str = "", costs: Sequence[float] = ()
    ) -> list[WaitingRow]:
        """Queue rows of one request; all of them or none.

        Args:
            kind: rows of one kind run together.
            adapter: name of their adapter in the pool; None for the base.
            works: what the runner needs to know about each.
            owner: who asks.
            costs: how much work each is; if empty, all are equal.

        Raises:
            QueueFullError: too many rows are waiting.
            ClosedError: the server is stopping.
        """
        loop = asyncio.get_running_loop()
        rows = [
            WaitingRow(kind, adapter, work, loop, loop.create_future(), owner, cost)
            for work, cost in zip(works, costs or [1.0] * len(works), strict=True)
        ]
        with self._changed:
            if self._closed:
                raise ClosedError("the server is stopping")
            waiting = sum(row.owner == owner and not row.cancelled for row in self._rows)
            if waiting + len(rows) > self._max_queue:
                raise QueueFullError(f"{waiting} of your rows are already waiting", hint="Try again later.")
            self._rows.extend(rows)
            self._changed.notify_all()
        return rows

    def close(self, seconds: float) -> bool:
        """Accept nothing new, run what is waiting, and end the thread; returns whether it has ended.

        Args:
            seconds: time for what is waiting; after that it is dropped, and generation ends at its next token.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._changed:
                dropped = [*self._rows, *self._batch]
                self._rows.clear()
            for row in dropped:
                row.cancelled = True
                row.finish(ClosedError("the server has stopped"))
            self._thread.join(_LAST)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            if not batch:
                continue
            self._batch = batch
            self._running_since = begin = time.monotonic()
            try:
                self._run(batch)
            except BaseException as error:
                for row in batch:
                    row.finish(error)
            finally:
                self._running_since = None
                self._last, self._batch = batch, ()
            if batch[0].kind in self._paces:
                now = time.monotonic()
                self._paces[batch[0].kind].ran(batch[0].bulk, _padded(batch), now - begin, now)

    def _next(self) -> list[WaitingRow] | None:
        with self._changed:
            while not self._rows:
                if self._closed:
                    return None
                self._changed.wait()
            until = self._rows[0].since + self._max_wait
            while not self._closed and len(self._rows) < self._max_batch:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._take()

    def _take(self) -> list[WaitingRow]:
        """Rows of one kind, within the limits, by their owners' turns; cancelled ones are dropped."""
        rows = [row for row in self._rows if not row.cancelled]
        self._mark_bulk(rows)
        taken: list[WaitingRow] = []
        adapters: set[str] = set()
        now = time.monotonic()
        budgets = {kind: pace.budget(now) for kind, pace in self._paces.items()}
        longest = 0.0

        def fits(row: WaitingRow) -> bool:
            nonlocal longest
            more = set() if row.adapter is None else {row.adapter}
            if len(adapters | more) > self._max_adapters:
                return False
            if taken:
                if (row.kind, row.bulk) != (taken[0].kind, taken[0].bulk):
                    return False
                if row.bulk and (len(taken) + 1) * max(longest, row.size) > budgets[row.kind]:
                    return False
            longest = max(longest, row.size)
            taken.append(row)
            adapters.update(more)
            return True

        batch = self._turns.take(rows, self._max_batch, fits)
        chosen = set(map(id, batch))
        self._rows = [row for row in rows if id(row) not in chosen]
        return batch

    def _mark_bulk(self, rows: Sequence[WaitingRow]) -> None:
        """Mark rows as bulk work by their owner's waiting rows and those of the last batch: more may follow."""
        counts = Counter(row.owner for row in (*rows, *self._last) if not row.goes_on)
        for row in rows:
            row.bulk = row.bulk or (row.kind in self._paces and counts[row.owner] > self._max_batch // 2)


def _padded(rows: Sequence[WaitingRow]) -> float:
    """Work of rows that run together, each padded to the longest."""
    return len(rows) * max(row.size for row in rows)
