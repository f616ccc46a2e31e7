"""The report as a table in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import words
from .data import ReportData

if TYPE_CHECKING:
    from rich.console import Console


def show(data: ReportData, console: Console) -> None:
    """Table and findings. Names are data: no markup in them is followed."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(data.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    memory = "GPU peak" if data.on_gpu else "peak *"
    table.add_column("method", style="bold", overflow="fold", min_width=10)
    for heading in (data.metric, "95 %", f"vs {data.baseline}", "trained", memory, "adapter", "time"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row in data.rows:
        artifact = row.first.artifact
        against = "baseline" if row.is_baseline else words.difference(row).partition(" (")[0]
        if row.against is not None and row.against.verdict == "no call":
            against = f"{against} ~"
        cells = (
            row.name,
            words.score(row.score, data.metric) if row.score is not None else row.first.status,
            words.spread(row, data.metric),
            against,
            words.count(row.trained),
            words.bytes_(row.memory.training.peak if row.memory else None),
            words.bytes_(artifact.bytes if artifact else None),
            words.seconds(row.mean(lambda run: run.seconds.get("train"))),
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    notes = "~ no winner can be called" + ("" if data.on_gpu else "   * training memory, counted tensors")
    console.print(Text(notes, style="dim"))
    for text in words.findings(data):
        console.print(Text(f"- {text}"))
