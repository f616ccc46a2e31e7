"""The report of a comparison: terminal, HTML, Markdown, CSV and JSON, all from the same data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from .data import ReportData


def load_report(folder: Path) -> ReportData:
    """Read the records of a comparison and compute what a report shows.

    Raises:
        DataError: no records in `folder`, or a damaged one.
    """
    from .build import build

    return build(folder)


def write_report(folder: Path, output: Path | None = None) -> dict[str, Path]:
    """Write the report of a comparison.

    Args:
        folder: output folder of a `bench`.
        output: folder of the report; ``report/`` in `folder` if None.

    Returns:
        ``html``, ``markdown``, ``csv`` and ``json`` -> file.

    Raises:
        DataError: no records in `folder`.
    """
    from pefttools.files import write_text_atomic

    from .html import to_html
    from .markdown import to_markdown
    from .tables import to_csv, to_json

    data = load_report(folder)
    target = output or folder / "report"
    makers = (
        ("html", "index.html", to_html),
        ("markdown", "report.md", to_markdown),
        ("csv", "report.csv", to_csv),
        ("json", "report.json", to_json),
    )
    files = {}
    for name, file, make in makers:
        write_text_atomic(target / file, make(data))
        files[name] = target / file
    return files


def print_table(data: ReportData, console: Console) -> None:
    """Show the table in a terminal."""
    from .terminal import show

    show(data, console)
