"""A starter's folder works as its README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import pefttools
from pefttools.cli.main import build_app
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.recipe import load_recipe
from pefttools.server import Settings
from pefttools.server.app import create_app
from pefttools.server.service import Service
from pefttools.tasks.starters import starters


def _commands(folder: Path) -> list[str]:
    """The lines that its README says to run."""
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def _here(words: list[str]) -> str:
    done = CliRunner().invoke(build_app(), words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=() if name == "classify" else pytest.mark.slow) for name in starters.names()]
)
def test_the_commands_of_the_readme(
    kind: str, tmp_path: Path, tiny_bert: str, tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny base, two steps of training; the served part in this process."""
    folder = tmp_path / "mine"
    base = tiny_llama if "package:llm" in starters.get(kind).base else tiny_bert
    assert _here(["new", kind, str(folder), "--base", base]).strip() == str(folder / "README.md")
    monkeypatch.chdir(folder)
    with ExitStack() as stack:
        said = _followed(_commands(folder), base, stack)
    assert {*said} == {"train", "predict", "evaluate", "store", "curl"}
    rows = len(pefttools.predict("artifact", data=str(next(folder.glob("test.*")))))
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == rows >= 8


def _followed(lines: list[str], base: str, stack: ExitStack) -> dict[str, str]:
    """Command -> what it printed."""
    said: dict[str, str] = {}
    for line in lines:
        words = shlex.split(line)
        assert words[0] in ("pefttools", "curl"), line
        if words[:2] == ["pefttools", "serve"]:
            client = stack.enter_context(_served(words[2:], base))
        elif words[0] == "curl":
            answer = client.post(words[2].partition("8000")[2], json=json.loads(words[words.index("-d") + 1]))
            assert answer.status_code == 200, answer.text
            said["curl"] = answer.text
        else:
            short = ["--set", "training.max_steps=2"] if words[1] == "train" else []
            said[words[1]] = _here([*words[1:], *short])
    return said


def _served(words: list[str], base: str) -> TestClient:
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given["--base"] == base and given["--port"] == "8000"
    settings = Settings(base=base, store=given["--store"])
    return TestClient(create_app(settings, Service(settings)))


@pytest.mark.parametrize("kind", starters.names())
def test_what_is_written(kind: str, tmp_path: Path) -> None:
    folder = pefttools.new(kind, tmp_path / "mine")
    names = {path.name for path in folder.iterdir()}
    assert {"recipe.yaml", "README.md"} < names
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["base"] == starters.get(kind).base
    assert {recipe["data"]["train"], recipe["data"]["test"]} <= names
    assert "{{" not in "".join(path.read_text() for path in folder.iterdir())
    splits = [(folder / recipe["data"][split]).read_text() for split in ("train", "test")]
    parts = [{one for one in re.split(r"\n\n" if kind == "tags" else r"\n", text) if one.strip()} for text in splits]
    assert len(parts[0] & parts[1]) == (1 if kind == "classify" else 0)  # the header of a CSV file


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        pefttools.new("classify", tmp_path)
    with pytest.raises(ConfigError, match="is not empty"):
        pefttools.new("classify", tmp_path / "recipe.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    with pytest.raises(UnknownNameError, match="clasify"):
        pefttools.new("clasify", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_empty_folder_and_an_odd_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base in the current folder is found from the new one, whatever its name."""
    (tmp_path / "it's: a base").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = pefttools.new("classify", "mine", base="it's: a base")
    base = str(tmp_path / "it's: a base")
    assert load_recipe(folder / "recipe.yaml").base == base
    (line,) = (line for line in _commands(folder) if line.startswith("pefttools serve"))
    assert shlex.split(line)[3] == base


def test_a_starter_of_another_package(tmp_path: Path) -> None:
    """As docs/plugin-guide.md says."""
    package = tmp_path / "our_package"
    (package / "tickets").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "starters.py").write_text(
        "from pefttools.tasks.starters import Starter\n"
        "class Tickets(Starter):\n    name, summary, base = 'tickets', 'departments for tickets', 'a/base'\n"
    )
    (package / "tickets" / "recipe.yaml").write_text("base: {{base}}\n")
    info = tmp_path / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pefttools.starters]\ntickets = our_package.starters:Tickets\n")
    program = Path(sys.executable).with_name("pefttools")
    given: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True}
    done = subprocess.run([program, "new", "tickets", tmp_path / "mine"], check=False, **given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "recipe.yaml").read_text() == "base: a/base\n"
    assert "tickets" in subprocess.run([program, "new", "--help"], check=False, **given).stdout


#: what its test rows must give after training, on the starter's own base
_GOALS: dict[str, tuple[str, float]] = {
    "classify": ("accuracy", 0.9),
    "tags": ("entity_f1", 0.7),
    "chat": ("token_accuracy", 0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", starters.names())
def test_the_whole_way(kind: str, tmp_path: Path) -> None:
    """Every command as it stands, in a shell."""
    folder = pefttools.new(kind, tmp_path / "mine")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "PATH": path}, "text": True}
    server: subprocess.Popen[str] | None = None
    said = {}
    try:
        for line in _commands(folder):
            if line.startswith("pefttools serve"):
                server = subprocess.Popen(["bash", "-c", f"exec {line}"], stdout=subprocess.PIPE, **given)
                assert server.stdout is not None and "http://" in server.stdout.readline()
                continue
            for _ in range(50):
                done = subprocess.run(["bash", "-c", line], capture_output=True, check=False, **given)
                if done.returncode != 7:  # curl: nobody listens yet
                    break
                time.sleep(0.2)
            assert done.returncode == 0, done.stderr
            said[line.split()[1]] = done.stdout
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)
    assert "error" not in said["-s"]
    name, least = _GOALS[kind]
    scores = {
        words[0]: float(words[1]) for line in said["evaluate"].splitlines()[:12] if len(words := line.split()) == 2
    }
    assert scores[name] >= least, said["evaluate"]
