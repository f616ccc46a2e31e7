"""The report as a table in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import category

from . import words
from .data import ReportData
from .findings import findings

if TYPE_CHECKING:
    from rich.console import Console


def show(data: ReportData, console: Console) -> None:
    """Table and findings. Names are data: neither markup nor control codes in them reach the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def plain(text: str, style: str = "") -> Text:
        return Text("".join("\N{REPLACEMENT CHARACTER}" if category(sign)[0] == "C" else sign for sign in text), style)

    table = Table(title=plain(data.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    memory = "GPU peak" if data.on_gpu else "peak *"
    table.add_column("method", style="bold", overflow="fold", min_width=10)
    for heading in (data.metric, "95 %", f"vs {data.baseline}", "trained", memory, "adapter", "time", "cpu"):
        table.add_column(plain(heading), justify="right", no_wrap=True)
    for row in data.rows:
        artifact = row.first.artifact
        against = "baseline" if row.is_baseline else words.difference(row, data.measure).partition(" (")[0]
        if row.did_not_learn:
            against = "did not learn"
        elif row.against is not None:
            sign = {"inconclusive": "~", "equal": "="}.get(row.against.verdict, "")
            against = f"{against} {sign}".strip()
        cells = (
            row.name,
            words.score(row.score, data.measure) if row.score is not None else row.first.status,
            words.spread(row, data.measure),
            against,
            words.count(row.trained),
            words.bytes_(row.memory.training.peak if row.memory else None),
            words.bytes_(artifact.bytes if artifact else None),
            words.seconds(row.mean(lambda run: run.seconds.get("train"))),
            words.seconds(row.mean(lambda run: run.seconds.get("train_cpu"))),
        )
        table.add_row(*(plain(cell) for cell in cells))
    console.print(table)
    kind = "of different kinds, not comparable" if data.mixed_memory else "counted tensors"
    notes = "~ inconclusive   = equal to within the margin" + ("" if data.on_gpu else f"   * training memory, {kind}")
    console.print(plain(notes, "dim"))
    for text in findings(data):
        console.print(plain(f"- {text}"))
