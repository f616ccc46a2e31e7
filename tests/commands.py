"""Command lines as pefttools parses them, without running them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from pefttools.cli.main import build_app


def _commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, *path, name)
        else:
            yield (*path, name), command


TOP: Any = typer.main.get_command(build_app())
#: words of a command, such as ("store", "add") -> the command
ALL = dict(_commands(TOP))


def parse(words: list[str]) -> None:
    """As the command line does, without calling the command; errors are click's."""
    assert words[0] == "pefttools"
    command, rest = _found(words[1:])
    command.make_context(command.name, rest).close()


def parse_mention(text: str) -> None:
    """A command as prose names it: what is required may be missing, and values may be stand-ins in capitals."""
    words = [word for word in shlex.split(re.sub(r"(?<= )N\b", "1", text)) if word != "..."]
    options = [word for word in words[1:] if word.startswith("--")]
    if options == words[1:2]:  # those before a command
        assert options[0] in {one for parameter in TOP.params for one in parameter.opts} | {"--help"}, text
        words = [words[0], *words[2:]]
    if len(words) == 1 or words[1].isupper():
        return
    command, rest = _found(words[1:])
    if rest in (["--help"], ["-h"]) or not hasattr(command, "make_context"):
        return
    try:
        command.make_context(command.name, rest).close()
    except Exception as error:  # of click, which typer may bring along under a name of its own
        if type(error).__name__ not in ("MissingParameter", "BadOptionUsage"):
            raise


def _found(words: list[str]) -> tuple[Any, list[str]]:
    command, rest = TOP, list(words)
    while hasattr(command, "commands"):
        assert rest, words
        name = rest.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    return command, rest
