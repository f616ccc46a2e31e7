"""``pefttools doctor``: what is installed here, and what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from pefttools.installation import Diagnosis, Finding

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Check this installation: packages, devices, memory, disk, the hub, optional parts and plugins.

    The exit code is 1 if something that pefttools needs is missing or broken.

    Examples:
        pefttools doctor
        pefttools doctor --json
    """
    raise typer.Exit(print_diagnosis(as_json))


def print_diagnosis(as_json: bool) -> int:
    """Print what was found; returns the exit code."""
    from pefttools.installation import doctor as run

    found = run()
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        try:
            _show(found)
        except ImportError:  # what draws tables may be broken too
            for one in found.findings:
                print(one.status, one.section, one.name, one.text, one.hint or "", sep="  ")
    return 0 if found.healthy else 1


def _show(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    # the same width in each section, so that they read as one table
    names = min(max(len(one.name) for one in found.findings), 22)
    for section in found.sections():
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(width=max(map(len, _STYLES)))
        table.add_column(width=names, overflow="fold")
        table.add_column(overflow="fold")
        for one in found.findings:
            if one.section == section:
                table.add_row(Text(one.status, style=_STYLES[one.status]), Text(one.name), _described(one))
        console.print(Text(f"\n{section}", style="bold"))
        console.print(table)
    print()
    if found.healthy:
        console.print("pefttools can train models and use them here.", style="green")
    else:
        named = ", ".join(dict.fromkeys(one.name for one in found.problems))
        console.print(Text(f"{len(found.problems)} to mend before pefttools can work: {named}", style="bold red"))
        if any(one.section == "packages" and one.data.get("version") is None for one in found.problems):
            console.print("pip install pefttools installs what is missing.")


def _described(one: Finding) -> Text:
    from rich.text import Text

    text = Text(one.text)
    if one.hint:
        text.append(f"\n{one.hint}", style="dim")
    return text
