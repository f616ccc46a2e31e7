"""The same server on Ray Serve: replicas in several processes or machines, with adapters multiplexed over them.

A router reads a request's model and passes the request unchanged to a replica that already holds the adapter, or to any
replica if none does. A replica is the HTTP application itself, with a pool of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pefttools.server.settings import Settings

#: what a replica sends first: status and headers
Start = tuple[int, list[tuple[str, str]]]


class Replica:
    """One base model and one pool, in a process of its own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from pefttools.logs import quiet_libraries
        from pefttools.server.app import create_app
        from pefttools.server.service import Service

        quiet_libraries()
        chosen = Settings.model_validate(settings)
        self.service = Service(chosen)
        self.app = create_app(chosen, self.service)
        self.app.state.service = self.service

    async def hold(self, model: str) -> str:
        """Tells Ray that this replica has the adapter; the pool loads it when it is requested."""
        return model

    async def call(self, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes
                   ) -> AsyncIterator[Start | bytes]:  # fmt: skip
        """Run a request through the application: status and headers first, then the body as it is produced."""
        model = serve.get_multiplexed_model_id()
        if model:
            await self.hold(model)
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "", "headers": headers,
        }  # fmt: skip
        sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the caller is connected until this call is cancelled
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def run() -> None:
            try:
                await self.app(scope, receive, sent.put)  # type: ignore[arg-type]
            finally:
                await sent.put(None)

        task = asyncio.create_task(run())
        try:
            while (message := await sent.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], [(k.decode(), v.decode()) for k, v in message.get("headers", [])]
                elif message.get("body"):
                    yield message["body"]
        finally:
            task.cancel()


class Router:
    """Hands each request to a replica, by its model."""

    def __init__(self, replicas: Any, limit: int) -> None:
        self.replicas = replicas
        self.limit = limit

    async def __call__(self, request: Request) -> Response:
        """Pass a request on and its answer back."""
        from pefttools.server.errors import error_body

        body = b""
        async for part in request.stream():
            body += part
            if len(body) > self.limit:
                message = f"the request is larger than {self.limit:,} bytes"
                return JSONResponse(error_body(message, "too_large", 413), 413)
        handle = self.replicas.options(stream=True, multiplexed_model_id=_model(request, body))
        headers = [(name, value) for name, value in request.headers.raw if name != b"serve_multiplexed_model_id"]
        answer = handle.call.remote(request.method, request.url.path, request.url.query.encode(), headers, body)
        parts = answer.__aiter__()
        status, sent = await parts.__anext__()
        kept = {name: value for name, value in sent if name.lower() != "content-length"}
        return StreamingResponse(parts, status, kept)


def build(settings: Settings, *, replicas: int = 2, cpus: float = 1.0, gpus: float = 0.0) -> Any:
    """The application, for ``ray.serve.run``.

    Args:
        settings: what each replica serves; the store must be one that all can read.
        replicas: number of replicas.
        cpus: CPUs of each.
        gpus: GPUs of each.
    """
    # The decorators are applied here: on the classes themselves they would hide those from type checkers.
    multiplexed = serve.multiplexed(max_num_models_per_replica=settings.max_resident)

    class Multiplexed(Replica):
        hold = multiplexed(Replica.hold)

    replica = serve.deployment(
        num_replicas=replicas, ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=settings.max_queue,
    )(Multiplexed)  # fmt: skip
    router = serve.deployment(max_ongoing_requests=settings.max_queue)(Router)
    return router.bind(replica.bind(settings.model_dump(mode="json")), settings.max_body_bytes)


def _model(request: Request, body: bytes) -> str:
    """Name of the adapter that a request is about; empty if there is none."""
    if request.url.path.startswith("/v1/adapters/"):
        return request.url.path.rpartition("/")[2]
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    model = content.get("model") if isinstance(content, dict) else None
    return model.partition("@")[0] if isinstance(model, str) else ""
