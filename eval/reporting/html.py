"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..plotting import SHARED, compressed_plotly
from ..records import UnderCondition
from . import classes, formatting, trials
from .columns import PARTS, RESOURCES, RESULTS, UNDER, Cell, Column, chosen, html_rows
from .data import ReportData
from .figures import figures
from .findings import findings

TEMPLATES = Path(__file__).parent / "templates"


def to_html(data: ReportData) -> str:
    """The page, with plotly's script inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        data=data,
        tables={name: (own, html_rows(data, own)) for name, own in _tables(data).items()} | _under(data),
        findings=findings(data),
        trials=trials.lines(data),
        class_reports=classes.reports(data),
        memory_note=formatting.memory_note(data),
        figures=[(name, title, Markup(text)) for name, title, text in figures(data)],
        runs=[_run(record) for record in data.records],
        plotly=compressed_plotly(),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )


def _tables(data: ReportData) -> dict[str, list[Column]]:
    several = any(row.deviation is not None for row in data.rows)
    results = [key for key in RESULTS if several or key != "seed_deviation"]
    named = {"results": results, "resources": RESOURCES, "parts": PARTS}
    return {name: chosen(data, keys) for name, keys in named.items()}


def _under(data: ReportData) -> dict[str, tuple[list[Column], list[list[Cell]]]]:
    """A table for each condition."""
    found = {}
    for number, under in enumerate(data.robustness):
        own = replace(data, rows=under.rows)
        columns = chosen(own, UNDER)
        found[f"under-{number}"] = columns, html_rows(own, columns)
    return found


def _said(under: UnderCondition) -> str:
    """What a run gave under a condition."""
    figures = [f"{name} {value:.4f}" for name, value in under.metrics.items()]
    return ", ".join([*figures, *([under.changed] if under.changed else []), f"{under.seconds:g} s"])


def _run(record: Any) -> dict[str, Any]:
    """The details of one run, as names and texts."""
    facts = {
        "status": record.status if record.error is None else f"{record.status}: {record.error.message}",
        "metrics": ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items()),
        **{f"under {title}": _said(one) for title, one in record.robustness.items()},
        "seconds": ", ".join(f"{name} {value:g}" for name, value in record.seconds.items()),
        "steps": f"{record.steps}, best {record.best_step}",
        "did not learn": record.did_not_learn or "",
        "learning rates tried": trials.in_one_line(record),
        "base": ", ".join(f"{name} {value}" for name, value in record.base.items() if value is not None),
        "data (sha256)": ", ".join(f"{name} {value[:16]}" for name, value in record.data.items()),
        "packages": ", ".join(f"{name} {value}" for name, value in record.packages.items()),
        "hardware": ", ".join(f"{name} {value}" for name, value in record.hardware.items() if value is not None),
        "git revision": record.git_revision or "",
        "recipe hash": record.recipe_hash,
        "created": record.created,
    }
    return {
        "id": record.id,
        "facts": facts,
        "recipe": json.dumps(record.recipe, indent=2, ensure_ascii=False),
    }
