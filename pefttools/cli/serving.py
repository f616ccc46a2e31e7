"""``pefttools serve | api-key``: adapters over HTTP."""

from __future__ import annotations

import gc
import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, cast, get_args

import typer

#: open files of a server beside its connections
_FILES = 256


def serve(
    base: str = typer.Option(..., "--base", help="Folder, package: reference or hub id of the base model."),
    store: str = typer.Option(..., "--store", help="Folder or fsspec URL of the adapters.", envvar="PEFTTOOLS_STORE"),
    variant: str = typer.Option("float32", "--variant", help="Number format of the base's weights."),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        help="Number format to compute in, where not the variant's own: bfloat16 is fast on most cards.",
    ),
    name: str = typer.Option("base", "--name", help="What requests call the base without an adapter."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="Port to listen on."),
    max_resident: int = typer.Option(64, "--max-resident", min=1, help="Most adapters in memory."),
    max_mbytes: int | None = typer.Option(None, "--max-mbytes", min=1, help="Most MB of adapter weights in memory."),
    max_batch: int = typer.Option(32, "--max-batch", min=1, help="Most rows that run together."),
    max_wait_ms: float = typer.Option(5.0, "--max-wait-ms", min=0, help="Longest wait for rows to run with."),
    max_run_ms: float = typer.Option(
        500.0, "--max-run-ms", min=0, help="Time after which answers in the making give way to rows that wait."
    ),
    max_queue: int = typer.Option(1024, "--max-queue", min=1, help="Most rows of one caller that wait; more get 429."),
    max_tokens: int = typer.Option(1024, "--max-tokens", min=1, help="Most new tokens of one answer."),
    max_connections: int = typer.Option(2048, "--max-connections", min=1, help="Most connections; more get 503."),
    timeout: float = typer.Option(60.0, "--timeout", min=0.001, help="Longest time of a request, in seconds."),
    stop_timeout: float = typer.Option(
        25.0, "--stop-timeout", min=1, help="Longest time that requests are finished after SIGTERM, in seconds."
    ),
    keys: Path | None = typer.Option(None, "--keys", help="File of API keys; without it everybody may do everything."),
    signed_by: list[Path] = typer.Option([], "--signed-by", help="Public key; adapters must be signed by one."),
    metrics: str = typer.Option("open", "--metrics", help="Who may read /metrics: open, managers (by key) or off."),
    access_log: bool = typer.Option(False, "--access-log", help="Write a line of JSON per request to standard error."),
    audit_log: Path | None = typer.Option(
        None,
        "--audit-log",
        help="File to which a line of JSON is added per adapter loaded, unloaded or tagged, by whom.",
    ),
    docs: bool = typer.Option(True, "--docs/--no-docs", help="Serve /docs and /openapi.json."),
) -> None:
    """Serve one base and the adapters of a store, requests of all of them batched together."""
    from pefttools.errors import ConfigError, UnknownNameError

    try:
        import uvicorn

        from pefttools.server.app import create_app
        from pefttools.server.connections import listening
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the server needs {error.name}, which is not installed", hint='pip install "pefttools[serve]"'
        ) from error
    from pefttools.server import Settings
    from pefttools.server.service import Service
    from pefttools.server.settings import Dtype

    if metrics not in ("open", "managers", "off"):
        raise UnknownNameError("value of --metrics", metrics, ["open", "managers", "off"])
    if dtype is not None and dtype not in get_args(Dtype):
        raise UnknownNameError("value of --dtype", dtype, get_args(Dtype))
    settings = Settings(
        base=base, store=store, variant=variant, dtype=cast("Any", dtype), name=name, max_resident=max_resident,
        max_bytes=None if max_mbytes is None else max_mbytes * 1_000_000, max_batch=max_batch, max_wait_ms=max_wait_ms,
        max_run_ms=max_run_ms, max_queue=max_queue, max_tokens=max_tokens, timeout_s=timeout, keys=keys,
        signed_by=tuple(signed_by), metrics=cast("Any", metrics), docs=docs, max_connections=max_connections,
        stop_s=stop_timeout,
    )  # fmt: skip
    _check_free(host, port)
    _check_files(max_connections)
    if access_log:
        _log_to("pefttools.access", logging.StreamHandler())
    if audit_log is not None:
        try:
            _log_to("pefttools.audit", logging.FileHandler(audit_log, encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the audit log {audit_log} can't be written: {error.strerror}") from error
    # Made here, so that a base that can't be loaded is said as any other wrong input.
    service = Service(settings)
    # What stands now stays. Python would go through all of it now and then: a quarter of a second without an answer.
    gc.collect()
    gc.freeze()
    print(
        f"{service.pool.served.base.id} with {len(service.store.names())} adapters on http://{host}:{port}", flush=True
    )
    if (advice := service.pool.served.advice()) is not None:
        print(advice, flush=True)
    if keys is None and host not in ("127.0.0.1", "localhost", "::1"):
        print("no --keys: everybody who reaches this address may use and manage every adapter", flush=True)
    try:
        uvicorn.Server(listening(create_app(settings, service), settings, host, port, log_level="warning")).run()
    except KeyboardInterrupt:
        pass
    finally:
        # Not after SIGTERM, which uvicorn hands on once it has ended, and which ends the process at once.
        if not service.close(0):
            # Python waits for its threads, and a store that hangs would keep the process for good.
            sys.stdout.flush()
            os._exit(1)


def _log_to(name: str, handler: logging.Handler) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _check_free(host: str, port: int) -> None:
    """Refuse a port in use before the base is loaded."""
    import socket

    from pefttools.errors import ConfigError

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {host}:{port}: {error.strerror or error}", hint="Choose another --port."
        ) from error


def _check_files(connections: int) -> None:
    """Let the process open as many files as there may be connections, and some more."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    from pefttools.errors import ConfigError

    needed = connections + _FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigError(
            f"{connections} connections need {needed} open files, and this system allows {hard}",
            hint="Give fewer --max-connections, or raise `ulimit -Hn`.",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def api_key(
    identity: str = typer.Argument(help="Whose key it is.", metavar="ID"),
    file: Path = typer.Option(..., "--keys", help="File of API keys; the digest is added to it."),
    adapters: list[str] = typer.Option([], "--adapters", help="Names or patterns that the key may use."),
    manage: list[str] = typer.Option([], "--manage", help="Names or patterns that it may use, load, unload and tag."),
    expires: datetime | None = typer.Option(None, "--expires", help="Date or time (UTC) from which it is refused."),
) -> None:
    """Make an API key; it is shown once, the file keeps its digest."""
    import yaml

    from pefttools.errors import ConfigError
    from pefttools.files import write_text_atomic
    from pefttools.server.keys import Caller, Keys, digest, new_key

    if not adapters and not manage:
        raise ConfigError("a key that may use nothing: give --adapters or --manage, e.g. --adapters 'acme*'")
    callers = Keys(file).callers if file.exists() else []
    if any(one.id == identity for one in callers):
        raise ConfigError(f"{file} has a key for {identity!r} already", hint="Remove its entry first.")
    key = new_key()
    callers = [
        *callers,
        Caller(id=identity, sha256=digest(key), adapters=tuple(adapters), manage=tuple(manage), expires=expires),
    ]
    entries = [
        {"id": one.id, "sha256": one.sha256, "adapters": list(one.adapters), "manage": list(one.manage)}
        | ({} if one.expires is None else {"expires": one.expires.isoformat()})
        for one in callers
    ]
    write_text_atomic(file, yaml.safe_dump(entries, sort_keys=False))
    print(key)
