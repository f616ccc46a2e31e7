"""Waiting for rows that run in a batch: until they are answered, it takes too long, or the caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from pefttools.errors import PeftToolsError
from pefttools.server.batching import WaitingRow

#: whether a caller has hung up
Gone = Callable[[], Awaitable[bool]]
#: seconds between two looks whether a caller has hung up
_LISTEN = 0.25


class TooLongError(PeftToolsError):
    """A request took too long: HTTP 504."""

    exit_code = 1


class GoneError(PeftToolsError):
    """The caller has hung up: nobody reads the answer."""


def too_long(seconds: float) -> TooLongError:
    """What to raise after so many seconds."""
    return TooLongError(f"the request took longer than {seconds:g} s")


async def answers(rows: Sequence[WaitingRow], seconds: float, gone: Gone | None) -> list[Any]:
    """Results of rows; whoever stops waiting cancels them.

    Args:
        rows: that were queued.
        seconds: longest time.
        gone: whether the caller has hung up; None: nobody can know.

    Raises:
        TooLongError: it took longer.
        GoneError: the caller has hung up.
        Exception: what a row ended with.
    """
    waiting: set[asyncio.Future[Any]] = {row.future for row in rows}
    for future in waiting:
        future.add_done_callback(_seen)
    try:
        async with asyncio.timeout(seconds):
            while waiting:
                # Asked now and then only: a task that listens beside every request would slow all of them.
                done, waiting = await asyncio.wait(waiting, timeout=_LISTEN, return_when=asyncio.FIRST_EXCEPTION)
                for one in done:
                    one.result()  # raises
                if waiting and gone is not None and await gone():
                    raise GoneError("the caller has gone")
            return [row.future.result() for row in rows]
    except TimeoutError as error:
        raise too_long(seconds) from error
    finally:
        for row in rows:
            row.cancelled = True


async def pieces(
    rows: Sequence[WaitingRow], queue: asyncio.Queue[tuple[int, str | None]], seconds: float
) -> AsyncIterator[tuple[int, str | None]]:
    """Numbers of rows and pieces of their texts as they come, None at the end of each; errors as `answers`."""
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
    """Of several rows that fail one is told of; asyncio would complain of each of the others."""
    if not future.cancelled():
        future.exception()
