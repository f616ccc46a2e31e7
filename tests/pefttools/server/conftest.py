"""Real servers on loopback, with small bases and adapters that give themselves away."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

import pefttools
from pefttools.server import Settings
from pefttools.server.app import create_app
from pefttools.server.connections import listening
from pefttools.server.service import Service
from pefttools.store import Store


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Callable[[int], Path]:
    """Adapter number n has labels of its own, and answers label ``n % 5`` of them to everything."""
    folder = tmp_path_factory.mktemp("classifiers")

    def get(number: int) -> Path:
        target = folder / str(number)
        if not target.exists():
            labels = [f"t{number}-{index}" for index in range(5)]
            model = pefttools.wrap(
                tiny_bert,
                "lora",
                r=2,
                task={"name": "sequence-classification", "head": "mean"},
                labels=labels,
                precision="float32",
            )
            assert isinstance(model.head, torch.nn.Module)
            with torch.no_grad():
                model.head.linear.weight.zero_()  # type: ignore[union-attr,operator]
                model.head.linear.bias.zero_()  # type: ignore[union-attr,operator]
                model.head.linear.bias[number % 5] = 3.0 + number / 100  # type: ignore[index]
            pefttools.save(model, target)
        return target

    return get


@pytest.fixture(scope="session")
def writers(tmp_path_factory: pytest.TempPathFactory, tiny_llama: str) -> Callable[[int], Path]:
    """LoRA adapters of a language model with weights of their own."""
    folder = tmp_path_factory.mktemp("writers")

    def get(number: int) -> Path:
        target = folder / str(number)
        if not target.exists():
            model = pefttools.wrap(tiny_llama, "lora", r=2, task="causal-lm")
            fill_lora(model, number)
            pefttools.save(model, target)
        return target

    return get


def fill_lora(model: torch.nn.Module, seed: int) -> None:
    """Give LoRA's factors random numbers, as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=generator)


class Server:
    """A running server."""

    def __init__(self, url: str, service: Service, running: uvicorn.Server) -> None:
        self.url = url
        self.running = running
        self.service = service
        self.http = httpx.Client(base_url=url, timeout=60)

    def connections(self) -> set[Any]:
        """Those that are open, as they come and go."""
        return self.running.server_state.connections


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[Server]:
    """Serve on a free port of loopback."""
    service = Service(settings)
    config = listening(create_app(settings, service), settings, "127.0.0.1", 0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    (sock,) = (one for asgi in server.servers for one in asgi.sockets)
    assert isinstance(sock, socket.socket) or sock is not None
    try:
        yield Server(f"http://127.0.0.1:{sock.getsockname()[1]}", service, server)
    finally:
        server.should_exit = True
        thread.join()
        service.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test; adapters are given as name -> artifacts, one per version."""
    with contextlib.ExitStack() as stack:

        def start(base: str, adapters: dict[str, list[Path]], **options: Any) -> Server:
            store = Store(tmp_path / "store")
            for name, artifacts in adapters.items():
                for artifact in artifacts:
                    store.add(artifact, name)
            return stack.enter_context(running(Settings(base=base, store=str(tmp_path / "store"), **options)))

        yield start
