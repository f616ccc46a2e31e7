"""The report as Markdown, for a README or an issue."""

from __future__ import annotations

import re

from pefttools.metrics import Measure

from . import trials, words
from .data import ReportData, Row
from .findings import findings


def to_markdown(data: ReportData) -> str:
    """Table, findings and notes."""
    unit = words.difference_unit(data.measure)
    heads = ["method", data.metric, "95 % interval", "between seeds",
             f"difference to {data.baseline}" + (f" ({unit})" if unit else ""), "verdict", "runs",
             "trained parameters",
             data.memory_title.lower().replace("gpu", "GPU"), "adapter", "training", "CPU time", "rows/s"]  # fmt: skip
    lines = [
        f"# {_plain(data.title)}",
        "",
        "| " + " | ".join(map(_plain, heads)) + " |",
        "|---" * len(heads) + "|",
    ]
    lines += ["| " + " | ".join(map(_plain, _cells(row, data.measure))) + " |" for row in data.rows]
    lines += [
        "",
        *(f"- {_plain(text)}" for text in findings(data)),
        "",
        _plain(words.memory_note(data)),
        "",
        *_trials(data),
    ]
    return "\n".join(lines)


def _trials(data: ReportData) -> list[str]:
    """Every learning rate that was tried, where there was a search."""
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


def _cells(row: Row, measure: Measure) -> list[str]:
    artifact = row.first.artifact
    return [
        row.name,
        words.score(row.score, measure),
        words.spread(row, measure),
        words.deviation(row, measure),
        words.difference(row, measure),
        row.verdict,
        words.runs(row),
        f"{words.count(row.trained)} ({words.percent(row.share_trained)})",
        words.bytes_(row.memory.training.peak if row.memory else None),
        f"{words.bytes_(artifact.bytes)} ({words.percent(artifact.share_of_base)})" if artifact else "–",
        words.seconds(row.mean(lambda run: run.seconds.get("train"))),
        words.seconds(row.mean(lambda run: run.seconds.get("train_cpu"))),
        words.rate(row.mean(lambda run: run.samples_per_second)),
    ]


def _plain(text: str) -> str:
    """Text that can neither end a cell nor begin markup."""
    text = " ".join(text.splitlines())
    # An underscore inside a word, as in exact_match, is no emphasis.
    text = re.sub(r"([\\`*\[\]~#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(sign, safe)
    return text
