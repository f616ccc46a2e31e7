"""A broken installation is described, whatever is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distribution
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import pefttools
from pefttools.installation import Finding
from pefttools.installation.distributions import EXTRAS, extras
from pefttools.installation.loading import _of_plugins, _plugins, _run
from pefttools.installation.machine import disks, memory

ROOT = Path(__file__).parents[3]


def _doctor(**environment: str) -> tuple[int, dict[str, Any]]:
    program = Path(sys.executable).with_name("pefttools")
    done = subprocess.run(
        [program, "doctor", "--json"], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def _plugin(folder: Path, name: str, points: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_broken_libraries_are_named_and_nothing_crashes(tmp_path: Path) -> None:
    """Not even where the command line itself needs one of them."""
    for name in ("torch", "pydantic"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was built for another processor')\n")
    code, found = _doctor(PYTHONPATH=str(tmp_path))
    assert code == 1 and not found["healthy"]
    problems = {one["name"]: one["text"] for one in found["findings"] if one["status"] == "problem"}
    assert "torch was built for another processor" in problems["torch"]
    assert "pefttools.api" in problems
    # the plugins that need pydantic fail in one way: one line
    assert "more can't be loaded: ImportError: pydantic was built" in problems["pefttools"]
    assert {one["section"] for one in found["findings"]} >= {"packages", "memory and disk", "hub", "extras", "plugins"}


def test_a_module_that_ends_its_process_is_named_and_the_others_are_still_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kills.py").write_text("import os; os.abort()\n")
    (tmp_path / "exits.py").write_text("import os; print('on stdout'); os._exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = _run(["load json", "load kills", "load csv", "load exits", "load nowhere"])
    assert [*map(found.get, ("load json", "load csv"))] == [
        {"step": "load json", "found": None},
        {"step": "load csv", "found": None},
    ]
    assert found["load kills"]["error"] == "ended its process with SIGABRT"
    assert "exit code 3" in found["load exits"]["error"]
    assert found["load nowhere"]["error"] == "ModuleNotFoundError: No module named 'nowhere'"


def test_plugins_of_others_are_listed_and_broken_ones_have_their_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fine_commands.py").write_text("def hello():\n    'Say hello.'\n")
    _plugin(tmp_path, "fine", "[pefttools.commands]\nhello = fine_commands:hello\n")
    _plugin(
        tmp_path, "sad", "[pefttools.methods]\ngone = no_such_module:X\n[pefttools.tasks]\nodd = json:JSONDecoder\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [point for point in _plugins() if point.dist is not None and point.dist.name in ("fine", "sad")]
    answers = _run([f"plugin {point.group} {point.name}" for point in points])
    found = list(_of_plugins(dict(zip(points, answers.values(), strict=True))))
    assert {(one.name, one.status) for one in found} == {("sad", "note"), ("fine", "ok")}
    broken = " ".join(one.text for one in found if one.name == "sad")
    assert "gone = no_such_module:X of methods can't be loaded: ModuleNotFoundError" in broken
    assert "odd = json:JSONDecoder of tasks can't be loaded" in broken and "not a subclass" in broken
    assert next(one.text for one in found if one.name == "fine") == "commands hello"


def test_a_broken_command_takes_no_other_away(tmp_path: Path) -> None:
    _plugin(tmp_path, "sad", "[pefttools.commands]\nhello = no_such_module:hello\n")
    program = Path(sys.executable).with_name("pefttools")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], capture_output=True, text=True, check=False, env=environment)

    listed = run("--help")
    assert listed.returncode == 0 and "evaluate" in listed.stdout and "hello" in listed.stdout
    called = run("hello", "--name", "me")
    assert called.returncode == 2 and "'hello' of sad can't be imported from no_such_module:hello" in called.stderr


def test_extras_have_the_command_that_installs_them() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(declared)
    found = {one.name: one for one in extras()}
    assert set(found) == set(declared)
    # an extra that names another one of ours has its packages
    assert {"fastapi", "uvicorn", "ray"} <= set(found["ray"].data["packages"])
    assert found["serve"].status == "ok" and found["serve"].data["command"] == 'pip install "pefttools[serve]"'
    missing = [one for one in found.values() if None in one.data["packages"].values()]
    assert all(one.status == "note" and one.hint == one.data["command"] for one in missing)


def test_memory_and_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ram,) = memory()
    assert 0 < ram.data["free_bytes"] <= ram.data["total_bytes"]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("PEFTTOOLS_STORE", str(tmp_path / "later" / "store"))
    found = {one.name: one for one in disks()}
    assert found["cache"].status == "problem" and "can't be written" in found["cache"].text
    assert found["store"].data["writable"] and found["store"].data["free_bytes"] > 0
    assert not (tmp_path / "later").exists()


@contextmanager
def _hub(status: int | None) -> Iterator[str]:
    """A server on this machine that gives every request the same answer, or none."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if status is None:
                self.rfile.read()
            else:
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        if status is not None:
            server.shutdown()
        server.server_close()


def _asked(**environment: str) -> Finding:
    program = (
        "import json; from dataclasses import asdict; from pefttools.installation.hub import hub;"
        "print(json.dumps([asdict(one) for one in hub(0.5)]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    (found,) = json.loads(done.stdout)
    return Finding(**found)


def test_the_hub() -> None:
    with _hub(200) as place:
        found = _asked(HF_ENDPOINT=place)
        assert (found.status, found.text) == ("ok", "reachable")
        # a proxy that is not there
        proxied = _asked(HF_ENDPOINT="http://hub.invalid", http_proxy="http://127.0.0.1:9")
        assert proxied.status == "note" and "not reachable through a proxy" in proxied.text
        assert _asked(HF_ENDPOINT="http://hub.invalid", http_proxy=place).text == "reachable through a proxy"
    with _hub(503) as place:
        assert "answers with 503" in _asked(HF_ENDPOINT=place).text
    with _hub(None) as place:
        silent = _asked(HF_ENDPOINT=place)
        assert silent.status == "note" and "imed out" in silent.text
    offline = _asked(HF_HUB_OFFLINE="1")
    assert offline.name == "offline mode" and offline.status == "note"


@pytest.mark.slow
def test_this_installation_is_healthy() -> None:
    found = pefttools.doctor()
    assert found.healthy, found.problems
    assert any(one.section == "devices" and one.name == "cpu" and one.status == "ok" for one in found.findings)
    assert found.as_dict()["findings"][1]["data"]["version"] == distribution("pefttools").version
