"""A page is followed as a reader would: its commands and programs are run one after the other in one folder."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pefttools.cli.main import build_app

from .blocks import SHELL, SHOWN, Block, blocks, inline
from .pages import ROOT

PROGRAM = Path(sys.executable).with_name("pefttools")
#: makes what a page takes for granted; it is called in the page's folder, with the fixtures of the test by name, and
#: returns names for the page's programs
Preparation = Callable[[Callable[[str], Any]], Any]


@dataclass(frozen=True)
class Page:
    """How one page is followed.

    All keys are parts of commands, programs or files of the page, and must occur there; with a `$` at the end, its end.
    """

    #: what takes long -> what is run for it
    instead: dict[str, str] = field(default_factory=dict)
    #: not run at all -> why
    unrun: dict[str, str] = field(default_factory=dict)
    #: what must be there before it: commands, lines of Python after `>>> `, or a function; "" is the page's beginning
    first: dict[str, str | Preparation] = field(default_factory=dict)
    #: page that is followed before this one, and its last command
    after: tuple[str, str] | None = None
    #: commands in running text are run too, those that begin with this at the end
    inline: str | None = None
    #: takes less than half a minute, apart from these commands
    quick: bool = False
    long: tuple[str, ...] = ()

    def parts(self) -> list[str]:
        """What must occur in the page."""
        return [key for key in (*self.instead, *self.unrun, *self.first, *self.long, self.inline) if key]


class Follower:
    """Runs the blocks of a page."""

    def __init__(
        self, page: Page, fixture: Callable[[str], Any], patch: pytest.MonkeyPatch, *, whole: bool = True
    ) -> None:
        self.page = page
        self.fixture = fixture
        self.patch = patch
        self.left = dict(page.unrun) if whole else {**page.unrun, **dict.fromkeys(page.long, "takes long")}
        self.prepared: set[str] = set()
        self.names: dict[str, Any] = {}
        self.servers: list[subprocess.Popen[bytes]] = []
        self.port = _free_port()
        self.ran: list[str] = []

    def __enter__(self) -> Follower:
        shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.terminate()
            server.wait(60)

    def follow(self, page: str, *, until: str = "") -> None:
        """Run all blocks of a page, or those up to a command."""
        self._prepare("")
        for block in blocks(page):
            if block.language in SHELL:
                for command in block.commands():
                    self.command(command)
                    if command == until:
                        return
            else:
                self.block(block)
        if self.page.inline is not None:
            plain = [one for one in inline(page) if not any(word.isupper() for word in one.split())]
            last = [one for one in plain if one.startswith(self.page.inline)]
            for command in [*(one for one in plain if one not in last), *last]:
                self.command(command)

    def block(self, block: Block) -> None:
        """Write a file, or run a program; what is only shown is read by other tests."""
        if block.file:
            Path(block.file).write_text(self._replaced(block.text), encoding="utf-8")
        elif block.language == "python":
            if self._left(block.text):
                return
            self._prepare(block.text)
            self._program(self._replaced(block.text))
        else:
            assert block.language in (*SHOWN, "yaml", "json", "toml"), f"no way to run {block.language}: {block.text}"

    def command(self, command: str) -> None:
        """Run one command of a shell."""
        if self._left(command):
            return
        self._prepare(command)
        self._run(self._replaced(command))

    def _run(self, command: str) -> None:
        words = [one for one in shlex.split(command) if one]
        if words[0] == "cd":
            self.patch.chdir(words[1])
        elif words[:2] == ["pefttools", "serve"]:
            self._serve(words[2:])
        elif words[0] == "pefttools":
            ended = CliRunner().invoke(build_app(), words[1:])
            assert ended.exit_code == 0, (command, ended.output, ended.exception)
        else:
            words = [sys.executable, *words[1:]] if words[0] == "python" else words
            words = [one.replace("localhost:8000", f"localhost:{self.port}") for one in words]
            words[1:1] = ["--silent", "--show-error", "--fail-with-body"] if words[0] == "curl" else []
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        self.ran.append(command)

    def _serve(self, words: list[str]) -> None:
        """Until the page's end, in a process of its own, where nobody else listens."""
        words = [str(PROGRAM), "serve", *words, "--port", str(self.port)]
        self.servers.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        server = self.servers[-1]
        for _ in range(600):
            if server.poll() is not None:
                raise AssertionError((words, server.stderr and server.stderr.read().decode()))
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/ready", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{words} is not ready")

    def _program(self, text: str) -> None:
        """In the names of the page's earlier programs; a test that it defines is called."""
        before = set(self.names)
        exec(compile(text, "a block", "exec"), self.names)
        for name in self.names.keys() - before:
            if name.startswith("test_"):
                folder = Path("of-" + name).absolute()
                folder.mkdir()
                self.names[name](folder)
        self.ran.append(text)

    def _left(self, text: str) -> bool:
        return any(occurs(key, text) for key in self.left)

    def _replaced(self, text: str) -> str:
        for key, value in self.page.instead.items():
            text = text.replace(key, value)
        return text

    def _prepare(self, text: str) -> None:
        for key, how in self.page.first.items():
            if key in self.prepared or (not occurs(key, text) if key else bool(text)):
                continue
            self.prepared.add(key)
            if isinstance(how, str):
                for line in how.splitlines():
                    self._program(line[4:]) if line.startswith(">>> ") else self._run(line)
            else:
                self.names.update(how(self.fixture) or {})


def occurs(key: str, text: str) -> bool:
    """Whether a key of a page means this command or program."""
    return text.endswith(key[:-1]) if key.endswith("$") else key in text


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
