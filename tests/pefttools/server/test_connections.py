"""Connections that do nothing, or too many of them, keep nobody from being served, nor a server from stopping."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pefttools.store import Store

from .conftest import Server

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


@contextlib.contextmanager
def _connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as one:
        yield one


def _closed_after(one: socket.socket) -> float:
    begin = time.perf_counter()
    with contextlib.suppress(ConnectionResetError):
        assert one.recv(1000) == b""
    return time.perf_counter() - begin


def test_a_head_that_does_not_come_is_not_waited_for(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, body_s=0.5)
    for begun in (b"", HEAD):
        with _connected(server.url) as one:
            one.sendall(begun)
            assert 0.3 < _closed_after(one) < 3
    # Nor behind a request that was answered, and not for who sends a little now and then.
    with _connected(server.url) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one.recv(10_000).startswith(b"HTTP/1.1 200")
        begin = time.perf_counter()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.perf_counter() - begin < 10:
                one.sendall(b"G" if time.perf_counter() - begin < 0.01 else b"E")
                time.sleep(0.1)
        assert time.perf_counter() - begin < 3
    # Two requests with a pause between them are none of this.
    with httpx.Client(base_url=server.url) as http:
        for _ in range(3):
            assert http.get("/health").status_code == 200
            time.sleep(0.6)


def test_connections_are_bounded(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, max_connections=3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(_connected(server.url))
        with _connected(server.url) as one:
            answer = b"".join(iter(lambda: one.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 503") and b"too many connections" in answer
    for _ in range(50):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health").status_code == 200:
                return
        time.sleep(0.02)
    pytest.fail("connections that were closed are counted still")


def test_an_answer_that_nobody_reads_is_not_kept(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, timeout_s=1)
    asked = 300  # one behind the other, and together more than a connection buffers
    size = len(server.http.get("/openapi.json").content)
    assert asked * size > 8_000_000
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        one.connect((host, int(port)))
        one.settimeout(20)
        one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        time.sleep(2.5)
        found = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := one.recv(1 << 20):
                found += len(piece)
    assert 0 < found < asked * size, "it was kept for who did not read"


def test_a_little_that_nobody_reads_is_not_kept_either(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    """Less than asyncio calls too much to keep writing."""
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, timeout_s=1)
    connections = server.connections()
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        one.connect((host, int(port)))
        one.settimeout(20)
        # Each answer is less than is kept; one after the other until the system takes no more.
        for _ in range(1000):
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.002)
            if any(each.transport.get_write_buffer_size() for each in list(connections)):
                break
        else:
            pytest.fail("everything was taken")
        until = time.monotonic() + 8
        while connections and time.monotonic() < until:
            time.sleep(0.05)
        assert not connections


def test_a_refused_body_does_not_keep_its_connection(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, body_s=0.5)
    with _connected(server.url) as one:
        one.sendall(HEAD.replace(b"100", b"100000000") + b"\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 413")
        begin = time.perf_counter()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            one.sendall(b"x")
            while one.recv(4096):  # the rest of the answer
                pass
        assert time.perf_counter() - begin < 4


@contextlib.contextmanager
def _process(base: str, store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"
    command = ["serve", "--base", base, "--store", str(store), "--port", str(port), *options]
    process = subprocess.Popen([sys.executable, "-c", program, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "adapters on http" in process.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/health").raise_for_status()
                break
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_stops_within_its_bound(
    sent: signal.Signals, tiny_llama: str, writers: Artifacts, tmp_path: Path
) -> None:
    """Behind half a head, half a body, a store that hangs and answers that take longer."""
    store = Store(tmp_path / "store")
    store.add(writers(1), "acme")
    store.add(writers(2), "hangs", tag="prod")
    pipe = tmp_path / "store" / "adapters" / "hangs" / "tags" / "prod"
    pipe.unlink()
    os.mkfifo(pipe)  # whoever opens it waits for a writer

    def ask(model: str) -> None:
        with contextlib.suppress(httpx.TransportError):
            asked = {"model": model, "prompt": ["a text that goes on"] * 32, "max_tokens": 450, "temperature": 0}
            httpx.post(f"{url}/v1/completions", json=asked, timeout=60)

    with (
        _process(tiny_llama, tmp_path / "store", "--stop-timeout", "1", "--max-batch", "4") as (process, url),
        contextlib.ExitStack() as stack,
    ):
        for begun in (HEAD, HEAD + b"\r\n{"):
            stack.enter_context(_connected(url)).sendall(begun)
        asking = [threading.Thread(target=ask, args=[model]) for model in ("acme", "hangs@prod")]
        for one in asking:
            one.start()
        time.sleep(1)
        assert all(one.is_alive() for one in asking), "there is nothing that it would wait for"
        begin = time.perf_counter()
        process.send_signal(sent)
        process.wait(timeout=60)
        took = time.perf_counter() - begin
        for one in asking:
            one.join()
    assert took < 1 + 6 + 3, f"{took:.1f} s"
