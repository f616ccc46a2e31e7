"""Connections: how many there may be, and how long an idle one is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pefttools.server.errors import error_body
from pefttools.server.settings import Settings


class BoundedProtocol(H11Protocol):
    """HTTP over one connection that can't be kept open for nothing.

    uvicorn itself waits without limit for the rest of a request's head, and for a caller to read.

    Args:
        most: maximum number of connections; any more are refused with 503 and closed.
        head_s: seconds within which a request's head must arrive.
        read_s: seconds for which a caller may leave a response unread.
        options: uvicorn's own options.
    """

    def __init__(self, *, most: int, head_s: float, read_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._most = most
        self._head = _Timer(self.loop, head_s)
        self._unread = _Timer(self.loop, read_s)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start, or refuse the connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # notified as soon as anything is left unread
        if len(self.connections) > self._most:
            body = json.dumps(error_body("too many connections; try again later", "too_many", 503)).encode()
            head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n" \
                   f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"  # fmt: skip
            transport.write(head.encode() + body)
            transport.close()
            return
        self._head.start(transport.close)

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head.stop()
        else:
            self._head.start(self.transport.close)

    def pause_writing(self) -> None:
        """The caller reads more slowly than we write."""
        super().pause_writing()
        self._unread.start(self.transport.abort)

    def resume_writing(self) -> None:
        """The caller has read."""
        super().resume_writing()
        self._unread.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._head.stop()
        self._unread.stop()
        super().connection_lost(exc)


class _Timer:
    """Does something once, after some seconds, if it is not stopped before; starting it twice changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None

    def start(self, act: Callable[[], None]) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, act)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def listening(app: FastAPI, settings: Settings, host: str, port: int, **options: Any) -> uvicorn.Config:
    """How uvicorn serves the application.

    Args:
        app: the application from `create_app`.
        settings: its limits.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        options: further options of uvicorn.
    """
    http: Any = partial(
        BoundedProtocol, most=settings.max_connections, head_s=settings.body_s, read_s=settings.timeout_s
    )
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=http,
        ws="none",
        timeout_graceful_shutdown=round(settings.stop_s) or 1,
        **options,
    )
