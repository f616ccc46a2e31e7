"""A study as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import itertools
from pathlib import Path
from typing import Any

from ..pages import line, page
from ..reporting.figures import COLOURS
from .data import Report, StrategyResult
from .terminal import compared

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(report: Report) -> str:
    """The page."""
    return page(
        _TEMPLATES,
        "continual.html",
        report.title,
        _figure(report),
        report=report,
        rows=[_cells(row, report) for row in report.strategies],
        compared=compared(report) if report.baseline is not None else [],
        maps=[_map(row, report) for row in report.strategies if row.matrices],
    )


def _cells(row: StrategyResult, report: Report) -> list[str]:
    cells = [row.label, row.summary]
    for measure in report.measures():
        value = row.values.get(measure.name)
        spread = "" if value is None else report.shown.spread(value.interval)
        cells.append("" if value is None else report.shown.number(value.mean) + (f" ({spread})" if spread else ""))
    return [*cells, f"{len(row.matrices)} of {row.planned}", f"{row.seconds:.0f}"]


def _map(row: StrategyResult, report: Report) -> dict[str, Any]:
    """Cells of a heat map: text, shade from 0 to 1, and whether the stage has been learned by then."""
    matrix = row.mean_matrix
    shown = [other.mean_matrix for other in report.strategies if other.matrices]
    known = [score for scores in itertools.chain.from_iterable(shown) for score in scores if score is not None]
    low, high = min(known), max(known)
    count = len(matrix[0])
    lines = []
    for step, scores in enumerate(matrix):
        learned = step + 1 if len(matrix) > 1 else count
        cells = []
        for place, score in enumerate(scores):
            share = 0.0 if score is None or high == low else (score - low) / (high - low)
            shade = share if report.higher_is_better else 1 - share
            cells.append((report.shown.number(score), 0.0 if score is None else round(shade, 3), place < learned))
        lines.append((learned, cells))
    return {"label": row.label, "lines": lines, "places": range(1, count + 1)}


def _figure(report: Report) -> dict[str, Any]:
    traces = []
    for index, row in enumerate(report.strategies):
        if scores := row.on_the_way:
            points = {float(count): report.shown.scale * score for count, score in enumerate(scores, start=1)}
            name, colour = html.escape(row.label), COLOURS[index % len(COLOURS)]
            traces.append(line(name, colour, points, bold=row.label == report.baseline))
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Stages learned"}, "dtick": 1},
            "yaxis": {"title": {"text": html.escape(f"Mean {report.metric} of stages so far{report.shown.ending}")}},
            "margin": {"t": 20}, "legend": {"orientation": "h", "y": -0.25}, "height": 480,
        },
    }  # fmt: skip
