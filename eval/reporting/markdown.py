"""The report as Markdown, for a README or an issue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from . import formatting, trials
from .columns import MARKDOWN, UNDER, chosen
from .data import ReportData
from .findings import findings


def to_markdown(data: ReportData) -> str:
    """Table, findings and notes."""
    lines = [
        f"# {_plain(data.title)}",
        "",
        *_table(data, MARKDOWN),
        "",
        *(f"- {_plain(text)}" for text in findings(data)),
        "",
        _plain(formatting.memory_note(data)),
        "",
        *_robustness(data),
        *_trials(data),
    ]
    return "\n".join(lines)


def _table(data: ReportData, keys: Iterable[str]) -> list[str]:
    columns = chosen(data, keys)
    return [
        "| " + " | ".join(_plain(column.in_markdown) for column in columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(_plain(column.text(row)) for column in columns) + " |" for row in data.rows),
    ]


def _robustness(data: ReportData) -> list[str]:
    """A table for each condition."""
    found = []
    for under in data.robustness:
        found += [f"## Under {_plain(under.condition)}", "", *_table(replace(data, rows=under.rows), UNDER), ""]
    return found


def _trials(data: ReportData) -> list[str]:
    """Every learning rate that was tried, if there was a search."""
    tried = trials.lines(data)
    if not tried:
        return []
    heads = ("method", "seed", "learning rate", f"validation {data.metric}", "validation loss", "steps", "")
    rows = ((t.row, str(t.seed), t.learning_rate, t.score, t.loss, str(t.steps), t.note) for t in tried)
    return [
        "## Learning rates tried",
        "",
        "| " + " | ".join(map(_plain, heads)) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(map(_plain, row)) + " |" for row in rows),
        "",
    ]


def _plain(text: str) -> str:
    """Text that can neither end a cell nor begin markup."""
    text = " ".join(text.splitlines())
    # An underscore inside a word, as in exact_match, is not emphasis.
    text = re.sub(r"([\\`*\[\]~#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(sign, safe)
    return text
