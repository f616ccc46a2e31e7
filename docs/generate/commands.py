"""The reference of the command line: every command with its help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from pefttools.cli.main import build_app

from .listing import output
from .text import page


def commands() -> list[list[str]]:
    """Every command that is not hidden, as the words after ``pefttools``."""
    return sorted(_below(typer.main.get_command(build_app()), []))


def _below(command: Any, words: list[str]) -> Iterator[list[str]]:
    for name, inner in command.commands.items():
        if inner.hidden:
            continue
        path = [*words, name]
        if hasattr(inner, "commands"):
            yield from _below(inner, path)
        else:
            yield path


def command_page() -> dict[str, str]:
    """Path -> page."""
    parts = [
        "Exit codes: 0 if all is well, 2 for wrong input, 1 for work that failed. `pefttools --debug COMMAND` shows "
        "tracebacks."
    ]
    for words in commands():
        text = output([*words, "--help"]).strip()
        parts += [f"## pefttools {' '.join(words)}", f"```text\n{text}\n```"]
    return {"reference/commands.md": page("Command line", *parts)}
