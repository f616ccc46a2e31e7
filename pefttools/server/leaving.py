"""Callers who hang up: what they asked for is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import HTTPException, Request

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled as soon as the caller has hung up.

    Raises:
        HTTPException: the caller has gone; nobody reads the answer.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HTTPException(499, "the caller has gone")
    finally:
        for one in (task, gone):
            one.cancel()


async def _gone(request: Request) -> None:
    # The body has been read: what comes next is that the connection has ended.
    while (await request.receive())["type"] != "http.disconnect":
        pass
