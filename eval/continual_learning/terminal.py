"""A study as a table in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .data import Report

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: Console) -> None:
    """A row per strategy, a column per measure with its interval; then the differences from the baseline."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..reporting.terminal import plain

    over = f"; 95 % intervals {report.over}" if report.over else ""
    console.print(plain(f"{report.title}: {report.metric}{report.shown.ending}, {report.scenario}{over}"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", style="bold", overflow="fold")
    for measure in report.measures():
        table.add_column(measure.name, justify="right", overflow="fold")
    for row in report.strategies:
        cells = []
        for measure in report.measures():
            value = row.values.get(measure.name)
            if value is None:
                cells.append("")
                continue
            spread = report.shown.spread(value.interval)
            cells.append(f"{report.shown.number(value.mean)}" + (f"\n({spread})" if spread else ""))
        table.add_row(plain(row.label), *cells)
    console.print(table)
    if report.baseline is not None and any(cells for cells in compared(report)):
        console.print(plain(f"Difference from {report.baseline}, in pairs of order and seed"))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("strategy", style="bold", overflow="fold")
        for measure in report.measures():
            table.add_column(measure.name, justify="right", overflow="fold")
        for label, *cells in compared(report):
            table.add_row(plain(label), *cells)
        console.print(table)
    for note in report.notes:
        console.print(plain(note))


def compared(report: Report) -> list[list[str]]:
    """A row per strategy but the baseline: its label, and for each measure the difference, interval and verdict."""
    rows = []
    for row in report.strategies:
        if row.label == report.baseline:
            continue
        cells = [row.label]
        for measure in report.measures():
            value = row.values.get(measure.name)
            if value is None or value.difference is None:
                cells.append("")
                continue
            spread = report.shown.spread(value.difference_interval, signed=True)
            verdict = report.verdict(measure, value)
            ending = f" ({spread}) {verdict}" if spread else ""
            cells.append(f"{report.shown.number(value.difference, signed=True)}{ending}")
        rows.append(cells)
    return rows
