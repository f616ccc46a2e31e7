"""The report as a table in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING
from unicodedata import category

from .columns import TERMINAL, UNDER_TERMINAL, chosen
from .data import ReportData
from .findings import findings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """A text for a terminal, without markup and control codes."""
    from rich.text import Text

    return Text("".join("\N{REPLACEMENT CHARACTER}" if category(sign)[0] == "C" else sign for sign in text), style)


def show(data: ReportData, console: Console) -> None:
    """Tables and findings. Names are data: neither markup nor control codes in them reach the terminal."""
    console.print(_table(data.title, data, TERMINAL))
    for under in data.robustness:
        console.print(_table(f"Under {under.condition}", replace(data, rows=under.rows), UNDER_TERMINAL))
    kind = "of different kinds, not comparable" if data.mixed_memory else "counted tensors"
    notes = "~ inconclusive   = equal to within the margin" + ("" if data.on_gpu else f"   * training memory, {kind}")
    console.print(plain(notes, "dim"))
    for text in findings(data):
        console.print(plain(f"- {text}"))


def _table(title: str, data: ReportData, keys: Iterable[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    name, *figures = chosen(data, keys)
    table.add_column(name.in_terminal, style="bold", overflow="fold", min_width=10)
    for column in figures:
        table.add_column(plain(column.in_terminal), justify="right", no_wrap=True)
    for row in data.rows:
        table.add_row(*(plain(column.in_narrow(row)) for column in (name, *figures)))
    return table
