"""Waiting for rows that run in a batch: until they are answered, it takes too long, or the caller disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from pefttools.errors import PeftToolsError
from pefttools.server.batching import WaitingRow

#: whether a caller has disconnected
Gone = Callable[[], Awaitable[bool]]
#: seconds between two checks whether a caller has disconnected
_LISTEN = 0.25


class TooLongError(PeftToolsError):
    """A request took too long: HTTP 504."""

    exit_code = 1


class GoneError(PeftToolsError):
    """The caller has disconnected: nobody reads the answer."""


def too_long(seconds: float) -> TooLongError:
    """The error to raise after so many seconds."""
    return TooLongError(f"the request took longer than {seconds:g} s")


async def answers(rows: Sequence[WaitingRow], seconds: float, gone: Gone | None) -> list[Any]:
    """Results of rows; whoever stops waiting cancels them.

    Args:
        rows: rows that were queued.
        seconds: maximum time.
        gone: whether the caller has disconnected; None if that can't be known.

    Raises:
        TooLongError: it took longer.
        GoneError: the caller has disconnected.
        Exception: the error that a row ended with.
    """
    waiting: set[asyncio.Future[Any]] = {row.future for row in rows}
    for future in waiting:
        future.add_done_callback(_seen)
    try:
        async with asyncio.timeout(seconds):
            while waiting:
                # Checked only now and then: a task that listens alongside every request would slow all of them.
                done, waiting = await asyncio.wait(waiting, timeout=_LISTEN, return_when=asyncio.FIRST_EXCEPTION)
                for one in done:
                    one.result()  # raises
                if waiting and gone is not None and await gone():
                    raise GoneError("the caller has disconnected")
            return [row.future.result() for row in rows]
    except TimeoutError as error:
        raise too_long(seconds) from error
    finally:
        for row in rows:
            row.cancelled = True


async def pieces(
    rows: Sequence[WaitingRow], queue: asyncio.Queue[tuple[int, str | None]], seconds: float
) -> AsyncIterator[tuple[int, str | None]]:
    """The number of a row with each piece of its text, and with None at its end; errors as in `answers`."""
    for row in rows:
        row.future.add_done_callback(_seen)
    waiting = len(rows)
    try:
        async with asyncio.timeout(seconds):
            while waiting:
                index, piece = await queue.get()
                if piece is None:
                    await rows[index].future  # raises
                    waiting -= 1
                yield index, piece
    except TimeoutError as error:
        raise too_long(seconds) from error
    finally:
        for row in rows:
            row.cancelled = True


def _seen(future: asyncio.Future[Any]) -> None:
    """Mark an error as seen: of several failed rows one is reported; asyncio would complain about the others."""
    if not future.cancelled():
        future.exception()
