"""A curve as a table in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .data import Curve, Point

if TYPE_CHECKING:
    from rich.console import Console


def show(curve: Curve, console: Console) -> None:
    """A column per number of labels, a row per method; then how many labels the baseline needs for the same."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..reporting.terminal import plain

    def score(point: Point) -> str:
        return curve.shown.number(point.score)

    def needed(point: Point) -> str:
        return "" if point.equivalent is None else point.equivalent.text

    tables = [(f"{curve.title}: {curve.metric}{curve.shown.ending} by labels per class", score)]
    if curve.baseline is not None:
        tables.append((f"Labels per class that {curve.baseline} needs for the same (95 % interval)", needed))
    for title, cell in tables:
        console.print(plain(title))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", style="bold", overflow="fold")
        for size in curve.sizes:
            table.add_column(str(size), justify="right", no_wrap=True)
        for name in curve.names:
            if cell is needed and name == curve.baseline:
                continue
            by_size = {point.per_class: point for point in curve.points if point.name == name}
            table.add_row(plain(name), *(cell(by_size[size]) if size in by_size else "" for size in curve.sizes))
        console.print(table)
