"""Examples in the help of commands: the section ``Examples:`` at the end of a command's docstring, a line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import typer

_HEADING = "Examples:"


def add_command(app: typer.Typer, command: Callable[..., Any], name: str | None = None, **settings: Any) -> None:
    """Register a command whose help ends with the examples of its docstring; settings are typer's."""
    about, examples = divided(inspect.getdoc(command) or "")
    # \b keeps the lines below it as they are: no wrapping, so that they can be copied.
    epilog = "\n".join(["\b", _HEADING, *(f"  {one}" for one in examples)]) if examples else None
    app.command(name, help=about, epilog=epilog, **settings)(command)


def divided(docstring: str) -> tuple[str, list[str]]:
    """What a docstring says, and its examples."""
    about, _, rest = docstring.partition(f"\n{_HEADING}\n")
    return about.strip(), [line for line in dedent(rest).splitlines() if line.strip()]
