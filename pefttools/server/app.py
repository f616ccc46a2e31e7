"""The HTTP application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import pefttools
from pefttools.errors import PeftToolsError
from pefttools.server.errors import error_body, error_response
from pefttools.server.routes import figures, router, watched
from pefttools.server.schemas import limit_schemas
from pefttools.server.service import Service
from pefttools.server.settings import Settings
from pefttools.store.reach import StoreError

_log = logging.getLogger(__name__)
_access = logging.getLogger("pefttools.access")
#: an id that a caller may give a request
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """The application; it loads the base when it starts.

    Args:
        settings: what is served.
        service: an existing service; it is not closed at the end.
    """

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service or Service(settings)
        yield
        if service is None:
            app.state.service.close()

    shown: dict[str, Any] = {} if settings.docs else {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(title="pefttools", version=pefttools.__version__, lifespan=life, **shown)
    bearer = [Security(HTTPBearer(auto_error=False))]  # for the API's documentation; routes check keys themselves
    app.include_router(watched)
    app.include_router(figures, dependencies=bearer if settings.metrics == "managers" else [])
    app.include_router(router, dependencies=bearer if settings.keys else [])
    app.add_exception_handler(PeftToolsError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)

    plain = app.openapi

    def limited() -> dict[str, Any]:
        """The OpenAPI document, with the limits of this server's settings."""
        document = plain()
        limit_schemas(document["components"]["schemas"], settings)
        return document

    app.openapi = limited  # type: ignore[method-assign]
    app.add_middleware(_BodyLimit, owner=app, seconds=settings.body_s)
    app.add_middleware(_Measured, owner=app)  # outermost: it sees every response
    return app


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, PeftToolsError)
    status, body = error_response(error)
    request.app.state.service.metrics.errors.labels(body["error"]["code"]).inc()
    if isinstance(error, StoreError):
        _log.error("%s", error, exc_info=error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(body, status, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = [_field(one) for one in error.errors()[:5]]
    form = "/audio/" in request.url.path
    given = request.headers.get("content-type", "")
    if request.method == "POST" and ("multipart" if form else "json") not in given:
        kind, wanted = ("a form", "multipart/form-data") if form else ("JSON", "application/json")
        parts = [f"the body must be {kind}, with the header content-type: {wanted}"]
    elif any(one["type"] == "json_invalid" for one in error.errors()):
        parts = ["the body is not JSON"]
    return JSONResponse(error_body("; ".join(parts), "invalid_request", 400), 400)


def _field(error: Any) -> str:
    """Where and what; if all alternatives of a field failed, only the field."""
    where = [
        str(part) for part in error["loc"][1:] if not any(sign in str(part) for sign in "[(") and "-" not in str(part)
    ]
    if error["type"] == "missing" and where:
        return f"{'.'.join(where[:-1]) or 'the request'} needs {where[-1]}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(where)}: {message}" if where else message if message != error["msg"] else f"body: {message}"


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405 and (allowed := _allowed(request.scope)):
        headers["Allow"] = ", ".join(allowed)
    return JSONResponse(error_body(str(error.detail), "http", error.status_code), error.status_code, headers)


def _allowed(scope: Scope) -> list[str]:
    """Methods of a path, which may have several routes."""
    routes = [one for one in (*watched.routes, *figures.routes, *router.routes) if isinstance(one, Route)]
    return sorted({method for one in routes if one.matches(scope)[0] != Match.NONE for method in one.methods or ()})


async def _unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse(error_body("an unexpected error; see the server's log", "internal", 500), 500)


class _Measured:
    """Counts requests, their status and their time, gives each an id, and writes a line of the access log.

    The line is JSON, from the logger ``pefttools.access``: id, method, route, status, seconds, caller. It has the route
    rather than the path, and no text of a request: others than the callers read a log.
    """

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self.app = app
        self.owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = "500"
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        identity = given if _ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity.encode())]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics = self.owner.state.service.metrics
            metrics.requests.labels(route, status).inc()
            seconds = time.perf_counter() - start
            metrics.seconds.labels(route).observe(seconds)
            line = {"id": identity, "method": scope["method"], "route": route, "status": int(status),
                    "seconds": round(seconds, 4), "caller": state.get("caller")}  # fmt: skip
            _access.info("%s", json.dumps(line))


class _TooLargeError(Exception):
    """A body that is larger than allowed."""


class _BodyLimit:
    """Refuses a request body that is too large, even one of unknown length, or that does not arrive in time."""

    def __init__(self, app: ASGIApp, owner: FastAPI, seconds: float) -> None:
        self.app = app
        self.owner = owner
        self.seconds = seconds

    @property
    def limit(self) -> int:
        """Bytes of the largest body."""
        service: Service = self.owner.state.service
        settings = service.settings
        return settings.max_body_bytes if service.pool.served.modality == "text" else settings.max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit:
            await self._refuse(scope, receive, send)
            return
        # Read completely here, so that an oversized body is refused before any part of it is parsed.
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(receive)
        except TimeoutError:
            error = error_body(f"the body did not arrive within {self.seconds:g} s", "timeout", 408)
            await JSONResponse(error, 408, {"Connection": "close"})(scope, receive, send)
            return
        except _TooLargeError:
            await self._refuse(scope, receive, send)
            return
        if body is None:
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if the client has disconnected."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limit:
                raise _TooLargeError
            if not message.get("more_body"):
                return b"".join(parts)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the request is larger than {self.limit:,} bytes"
        await JSONResponse(error_body(message, "too_large", 413), 413, {"Connection": "close"})(scope, receive, send)
