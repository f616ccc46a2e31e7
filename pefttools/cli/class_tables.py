"""Scores per class and the confusion matrix, in a terminal."""

from __future__ import annotations

from pefttools.tasks.labels.classes import ClassReport

#: a larger matrix does not fit a terminal: only its most frequent mistakes are shown
_LARGEST_MATRIX = 12
_MISTAKES = 15


def print_classes(report: ClassReport) -> None:
    """Print the scores per class and the confusion matrix, or its largest mistakes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print("\nScores per class")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("class", "rows", "predicted", "precision", "recall", "f1"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=name != "class")
    for one in report.classes:
        scores = (f"{value:.3f}" for value in (one.precision, one.recall, one.f1))
        table.add_row(Text(one.label), f"{one.rows:,}", f"{one.predicted:,}", *scores)
    console.print(table)
    if len(report.classes) <= _LARGEST_MATRIX:
        console.print("\nConfusion matrix: a row per true class, a column per predicted one")
        console.print(_matrix(report))
        return
    mistakes = report.mistakes()
    console.print("\nMost frequent mistakes")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("true class", "predicted class", "rows"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for cell in mistakes[:_MISTAKES]:
        table.add_row(Text(cell.reference), Text(cell.prediction), f"{cell.rows:,}")
    console.print(table)
    if len(mistakes) > _MISTAKES:
        console.print(f"and {len(mistakes) - _MISTAKES:,} other pairs of classes: see --json")


def _matrix(report: ClassReport) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for number in range(1, len(report.classes) + 1):
        table.add_column(str(number), justify="right")
    for number, (one, cells) in enumerate(zip(report.classes, report.matrix(), strict=True), start=1):
        table.add_row(Text(f"{number} {one.label}"), *(f"{cell:,}" if cell else "·" for cell in cells))
    return table
