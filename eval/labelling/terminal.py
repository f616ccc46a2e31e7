"""A simulation as a table in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .data import BASELINE, Report

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: Console) -> None:
    """A row per strategy, a column per number of labels."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..reporting.terminal import plain

    console.print(plain(f"{report.title}: {report.metric}{report.shown.ending} by number of labels"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", style="bold")
    for count in report.curves[0].labels:
        table.add_column(str(count), justify="right", no_wrap=True)
    compared = any(curve.difference is not None for curve in report.curves)
    if compared:
        table.add_column(f"mean, minus {BASELINE}", justify="right")
        table.add_column(f"{BASELINE} needs", justify="right")
    for curve in report.curves:
        cells = [report.shown.number(mean) for mean in curve.means]
        if compared:
            cells += [report.difference(curve), curve.equivalent]
        table.add_row(plain(curve.name), *cells)
    console.print(table)
