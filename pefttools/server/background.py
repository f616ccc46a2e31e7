"""Work outside the event loop: reading files, and turning long texts into tokens."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pefttools.server.batching import ClosedError
from pefttools.server.waiting import too_long

_T = TypeVar("_T")
#: characters that the event loop tokenizes itself, in about a millisecond
_SHORT = 5_000


class Background:
    """Threads of a server.

    Args:
        tokenizer: the base's tokenizer; a fast one can't be called from two threads while it is being configured, so
            that the loop and the thread each have a copy.
        seconds: maximum time to wait for a piece of work.
    """

    def __init__(self, tokenizer: Any, seconds: float) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self._of_thread = copy.deepcopy(tokenizer)
        self._files = ThreadPoolExecutor(16, "pefttools-files")
        self._tokenizing = ThreadPoolExecutor(1, "pefttools-tokenizer")
        self._looking = ThreadPoolExecutor(1, "pefttools-lookup")
        self._seconds = seconds
        self._begun: set[Future[Any]] = set()
        self.closed = False

    def close(self) -> bool:
        """Accept nothing new; returns whether all threads are free."""
        self.closed = True
        for threads in (self._files, self._tokenizing, self._looking):
            threads.shutdown(wait=False, cancel_futures=True)
        return not self._begun

    async def files(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """The result of `work`, which reads files.

        Raises:
            TooLongError: it took too long; it keeps running, but nobody waits for it.
            ClosedError: the server is stopping.
        """
        return await self._run(self._files, work, *arguments)

    async def lookups(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """The result of `work`, which runs a model: one at a time. Raises as `files`."""
        return await self._run(self._looking, work, *arguments)

    async def tokens(self, work: Callable[[Any], _T], characters: int) -> _T:
        """The result of `work` for a tokenizer; raises as `files`.

        Args:
            work: turns texts into tokens.
            characters: number in all texts together; a few are not worth a thread.
        """
        if characters <= _SHORT:
            return work(self.tokenizer)
        return await self._run(self._tokenizing, work, self._of_thread)

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[..., _T], *arguments: Any) -> _T:
        if self.closed:
            raise ClosedError("the server is stopping")
        try:
            async with asyncio.timeout(self._seconds):
                future = threads.submit(work, *arguments)
                self._begun.add(future)
                future.add_done_callback(self._begun.discard)
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise too_long(self._seconds) from error
