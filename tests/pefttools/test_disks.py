"""Disks that are full and stores that can't be reached: said in our words, and nothing half-written stays."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import pefttools
from pefttools.server import Settings
from pefttools.store import Store
from pefttools.store.reach import StoreError

from .server.conftest import running


@pytest.fixture
def artifact(tiny_llama: str, tmp_path: Path) -> Path:
    model = pefttools.wrap(tiny_llama, "lora", r=2, task="causal-lm")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    pefttools.save(model, tmp_path / "artifact")
    return tmp_path / "artifact"


def _run(largest_file: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, where no file may be larger: what a full disk does, at any byte."""

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    program = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, preexec_fn=limit,
                          timeout=120, check=False)  # fmt: skip


@pytest.mark.parametrize(
    "command", ["add", *(pytest.param(one, marks=pytest.mark.slow) for one in ("export", "compose", "merge"))]
)
def test_a_disk_without_room(command: str, artifact: Path, tmp_path: Path) -> None:
    output = tmp_path / "made" / "output"
    arguments = {
        "add": ["store", "add", str(artifact), "--name", "acme", "--store", str(output), "--tag", "prod"],
        "compose": ["compose", str(artifact), str(artifact), "--weights", "0.5,0.5", "--output", str(output)],
        "merge": ["merge", str(artifact), "--output", str(output)],
        "export": ["export", str(artifact), "--output", str(output)],
    }[command]
    found = _run(6000, *arguments)
    said = " ".join(found.stderr.replace("│", " ").split())
    assert found.returncode == 2, said
    assert "can't write" in said and "File too large" in said, said
    assert "unexpected" not in said and "can't be read" not in said
    left = [path for path in output.parent.rglob("*") if path.is_file() and path.name != ".lock"]
    assert not left, "something half-written stays"


class _Failing(MemoryFileSystem):  # type: ignore[misc]
    """A store whose network is gone, as soon as somebody says so."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    gone = False
    unreadable = ""

    def _reach(self) -> None:
        if type(self).gone:
            raise ConnectionError("no route to host 10.0.0.1")

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        self._reach()
        if type(self).unreadable == path:
            raise PermissionError("no rights")
        return bytes(super().cat_file(path, *args, **options))

    def ls(self, path: str, *args: Any, **options: Any) -> Any:
        self._reach()
        return super().ls(path, *args, **options)


@pytest.fixture
def failing() -> Iterator[type[_Failing]]:
    fsspec.register_implementation("failing", _Failing, clobber=True)
    _Failing.gone, _Failing.unreadable = False, ""
    yield _Failing
    _Failing.gone, _Failing.unreadable = False, ""


def test_a_store_that_can_not_be_reached(
    failing: type[_Failing], artifact: Path, tiny_llama: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = "failing://stores/one"
    store = Store(url)
    store.add(artifact, "acme", tag="prod")
    with running(Settings(base=tiny_llama, store=url, max_tokens=4)) as server:
        failing.gone = True
        for ask in (store.names, lambda: store.get("acme@prod"), lambda: store.tag("acme", 1, "new")):
            with pytest.raises(StoreError, match=r"failing://stores/one can't be used: no route to host"):
                ask()
        request = {"model": "acme@prod", "prompt": "a text"}
        refused = httpx.post(f"{server.url}/v1/completions", json=request)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "store_unavailable"
        assert "10.0.0.1" not in refused.text and "failing:" not in refused.text
        assert "10.0.0.1" in caplog.text, "who runs the server must see why"
        assert httpx.get(f"{server.url}/v1/models").status_code == 503
        failing.gone = False
        assert httpx.post(f"{server.url}/v1/completions", json=request).status_code == 200


def test_one_file_that_can_not_be_read_hides_no_other(failing: type[_Failing], artifact: Path) -> None:
    store = Store("failing://stores/two")
    for _ in range(2):
        store.add(artifact, "acme", tag="prod")
    moves = store.history("acme")
    failing.unreadable = sorted(one for one in failing.store if "/two/adapters/acme/history/" in one)[0]
    assert store.history("acme") == moves[1:]
    failing.unreadable = next(
        one for one in failing.store if one.endswith("/two/adapters/acme/versions/1/pefttools.json")
    )
    assert list(store.verify()) == ["acme@1"]
