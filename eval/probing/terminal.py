"""A probe in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cells import CHECKS, TRAINED, Cell
from .table import ProbeTable

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"works": "[green]●[/]", "refused": "[dim]–[/]", "fails": "[bold red]✗[/]", "wrong": "[bold red]![/]"}


def print_table(table: ProbeTable, console: Console) -> None:
    """Methods and checks: a mark if all models agree, otherwise on how many it works."""
    from rich.table import Table

    shown = Table(box=None, padding=(0, 1))
    shown.add_column("method")
    names = [TRAINED, *CHECKS]
    for name in names:
        shown.add_column(name)
    for method in dict.fromkeys(cell.method for cell in table.cells):
        own = [cell for cell in table.cells if cell.method == method]
        shown.add_row(method, *(_cell(own, name) for name in names))
    console.print(shown)
    console.print("[green]●[/] works  [dim]–[/] refused  [bold red]✗[/] fails  [bold red]![/] wrong  · not tried")
    for method, why in table.unable.items():
        console.print(f"[dim]{method}: not tried: {why}[/]", highlight=False)


def _cell(cells: list[Cell], check: str) -> str:
    found = [cell.checks[check].status for cell in cells if check in cell.checks]
    tried = [status for status in found if status != "not tried"]
    if not tried:
        return "·"
    for bad in ("wrong", "fails"):
        if bad in tried:
            return f"{_MARKS[bad]} {tried.count(bad)}"
    if len(set(tried)) == 1:
        return _MARKS[tried[0]]
    return f"{tried.count('works')}/{len(tried)}"
