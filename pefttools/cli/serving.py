"""``pefttools serve | api-key``: adapters over HTTP."""

from __future__ import annotations

import gc
import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from pefttools.cli.options import with_options_of
from pefttools.server.settings import Settings

#: open files of a server besides its connections
_FILES = 256


#: options that are named differently from their field, and environment variables
_OPTIONS = {
    "store": "--store PEFTTOOLS_STORE",
    "timeout_s": "--timeout",
    "body_s": "--body-timeout",
    "stop_s": "--stop-timeout",
    "stall_s": "--stall-timeout",
}


@with_options_of(Settings, names=_OPTIONS)
def serve(
    max_mbytes: int | None = typer.Option(None, "--max-mbytes", min=1, help="As --max-bytes, in MB."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="Port to listen on."),
    access_log: bool = typer.Option(False, "--access-log", help="Write a line of JSON per request to standard error."),
    audit_log: Path | None = typer.Option(
        None,
        "--audit-log",
        help="File that gets a line of JSON for each adapter loaded, unloaded or tagged, with who did it.",
    ),
    **given: Any,
) -> None:
    """Serve one base and the adapters of a store; requests for all of them are batched together.

    Examples:
        pefttools serve --base path/to/base --store adapters --port 8000
        pefttools serve --base path/to/base --store adapters --keys keys.yaml --access-log
    """
    from pefttools.errors import ConfigError
    from pefttools.recipe import validate

    try:
        import uvicorn

        from pefttools.server.app import create_app
        from pefttools.server.connections import listening
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the server needs {error.name}, which is not installed", hint='pip install "pefttools[serve]"'
        ) from error
    from pefttools.server.service import Service

    if max_mbytes is not None:
        given["max_bytes"] = max_mbytes * 1_000_000
    settings = validate(Settings, given, "serve")
    _check_free(host, port)
    _check_files(settings.max_connections)
    _begin_logs(access_log, audit_log)
    # Created here, so that a base that can't be loaded is reported like any other wrong input.
    service = Service(settings)
    # What exists now stays. The garbage collector would go through all of it now and then, for a quarter of a second.
    gc.collect()
    gc.freeze()
    print(
        f"{service.pool.served.base.id} with {len(service.store.names())} adapters on http://{host}:{port}", flush=True
    )
    if (advice := service.pool.served.advice()) is not None:
        print(advice, flush=True)
    if settings.keys is None and host not in ("127.0.0.1", "localhost", "::1"):
        print("no --keys: anyone who reaches this address can use and manage every adapter", flush=True)
    try:
        uvicorn.Server(listening(create_app(settings, service), settings, host, port, log_level="warning")).run()
    except KeyboardInterrupt:
        pass
    finally:
        # Not reached after SIGTERM: uvicorn raises it again once it has ended, and that ends the process at once.
        if not service.close(0):
            # Python waits for its threads, and a store that hangs would keep the process alive forever.
            sys.stdout.flush()
            os._exit(1)


def _begin_logs(access: bool, audit: Path | None) -> None:
    from pefttools.errors import ConfigError

    if access:
        _log_to("pefttools.access", logging.StreamHandler())
    if audit is not None:
        try:
            _log_to("pefttools.audit", logging.FileHandler(audit, encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the audit log {audit} can't be written: {error.strerror}") from error


def _log_to(name: str, handler: logging.Handler) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _check_free(host: str, port: int) -> None:
    """Refuse a port in use before the base is loaded."""
    import socket

    from pefttools.errors import ConfigError
    from pefttools.system import allow_reuse

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as one:
            allow_reuse(one)
            one.bind(address)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {host}:{port}: {error.strerror or error}", hint="Choose another --port."
        ) from error


def _check_files(connections: int) -> None:
    """Let the process open a file for every allowed connection, and some more."""
    from pefttools.errors import ConfigError
    from pefttools.system import allow_open_files

    needed = connections + _FILES
    allowed = allow_open_files(needed)
    if allowed is not None:
        raise ConfigError(
            f"{connections} connections need {needed} open files, but this system allows only {allowed}",
            hint="Lower --max-connections, or raise `ulimit -Hn`.",
        )


def api_key(
    identity: str = typer.Argument(help="Who the key is for.", metavar="ID"),
    file: Path = typer.Option(..., "--keys", help="File of API keys; the new key's digest is added to it."),
    adapters: list[str] = typer.Option([], "--adapters", help="Names or patterns that the key may use."),
    manage: list[str] = typer.Option([], "--manage", help="Names or patterns that it may use, load, unload and tag."),
    expires: datetime | None = typer.Option(None, "--expires", help="Date or time (UTC) at which it expires."),
) -> None:
    """Make an API key; it is shown only once, and the file keeps its digest.

    Examples:
        pefttools api-key acme --keys keys.yaml --adapters 'acme*'
    """
    import yaml

    from pefttools.errors import ConfigError
    from pefttools.files import write_text_atomic
    from pefttools.server.keys import Caller, Keys, digest, new_key

    if not adapters and not manage:
        raise ConfigError("a key must allow the use of something: give --adapters or --manage, e.g. --adapters 'acme*'")
    callers = Keys(file).callers if file.exists() else []
    if any(one.id == identity for one in callers):
        raise ConfigError(f"{file} already has a key for {identity!r}", hint="Remove its entry first.")
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
