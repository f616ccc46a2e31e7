"""A study as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..reporting.figures import COLOURS, script_json
from .data import Report, StrategyResult
from .terminal import compared

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(report: Report) -> str:
    """The page, with plotly's script inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("continual.html").render(
        report=report,
        rows=[_cells(row, report) for row in report.strategies],
        compared=compared(report) if report.baseline is not None else [],
        maps=[_map(row, report) for row in report.strategies if row.matrices],
        figure=Markup(script_json(_figure(report))),
        # plotly's own code: the only text that is not escaped, and no data is in it
        plotly=Markup(get_plotlyjs()),
    )


def _cells(row: StrategyResult, report: Report) -> list[str]:
    cells = [row.label, row.summary]
    for measure in report.measures():
        value = row.values.get(measure.name)
        spread = "" if value is None else report.spread(value.interval)
        cells.append("" if value is None else report.number(value.mean) + (f" ({spread})" if spread else ""))
    return [*cells, f"{len(row.matrices)} of {row.planned}", f"{row.seconds:.0f}"]


def _map(row: StrategyResult, report: Report) -> dict[str, Any]:
    """Cells of a heat map: text, shade from 0 to 1, and whether the stage has been learned by then."""
    matrix = row.mean_matrix
    known = [score for other in report.strategies if other.matrices for line in other.mean_matrix for score in line
             if score is not None]  # fmt: skip
    low, high = min(known), max(known)
    count = len(matrix[0])
    lines = []
    for step, line in enumerate(matrix):
        learned = step + 1 if len(matrix) > 1 else count
        cells = []
        for place, score in enumerate(line):
            share = 0.0 if score is None or high == low else (score - low) / (high - low)
            shade = share if report.higher_is_better else 1 - share
            cells.append((report.number(score), 0.0 if score is None else round(shade, 3), place < learned))
        lines.append((learned, cells))
    return {"label": row.label, "lines": lines, "places": range(1, count + 1)}


def _figure(report: Report) -> dict[str, Any]:
    traces = []
    for index, row in enumerate(report.strategies):
        scores = row.on_the_way
        if scores:
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": html.escape(row.label),
                    "x": list(range(1, len(scores) + 1)), "y": [report.scale * score for score in scores],
                    "line": {"color": COLOURS[index % len(COLOURS)], "width": 3 if row.label == report.baseline else 1},
                }
            )  # fmt: skip
    unit = f", {report.unit}" if report.unit else ""
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Stages learned"}, "dtick": 1},
            "yaxis": {"title": {"text": html.escape(f"Mean {report.metric} of the stages so far{unit}")}},
            "margin": {"t": 20}, "legend": {"orientation": "h", "y": -0.25}, "height": 480,
        },
    }  # fmt: skip
