"""The report's table and what it says, as a part of a page: what a notebook shows."""

from __future__ import annotations

from html import escape

from .columns import NOTEBOOK, chosen
from .data import ReportData
from .findings import findings


def to_fragment(data: ReportData) -> str:
    """A heading, a table and a list. Names are data: no markup in them gets through."""
    columns = chosen(data, NOTEBOOK)
    head = "".join(f"<th>{escape(column.in_markdown)}</th>" for column in columns)
    lines = ["".join(f"<td>{escape(column.text(row))}</td>" for column in columns) for row in data.rows]
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    said = "\n".join(f"<li>{escape(text)}</li>" for text in findings(data))
    return (
        f"<p><b>{escape(data.title)}</b></p>\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n"
        f"</table>\n<ul>\n{said}\n</ul>"
    )
