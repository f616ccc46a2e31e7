"""``pefttools new``: a folder to start from."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import typer

from pefttools.cli.completing import names_of


def _kinds() -> str:
    """Names of the starters; importing none of them."""
    return ", ".join(sorted({point.name for point in entry_points(group="pefttools.starters")}))


def new(
    kind: str = typer.Argument(
        help=f"What to start with: {_kinds()}.", metavar="KIND", autocompletion=names_of("pefttools.starters")
    ),
    folder: Path = typer.Argument(help="Folder to write; it must be empty or not exist.", metavar="FOLDER"),
    base: str | None = typer.Option(None, "--base", help="Base model: folder, package: reference or hub id."),
) -> None:
    """Write a folder that works at once: a recipe, sample data, and the commands in a README.md.

    Examples:
        pefttools new classify my-first
        pefttools new tags my-tags --base ORG/NAME
    """
    from pefttools.tasks.starters import new as write

    print(write(kind, folder, base=base) / "README.md")
