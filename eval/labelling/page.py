"""A simulation as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..pages import bars, line, page
from ..reporting.figures import COLOURS
from .data import BASELINE, Report

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(report: Report) -> str:
    """The page."""
    return page(_TEMPLATES, "labelling.html", report.title, _figure(report), report=report, baseline=BASELINE)


def _figure(report: Report) -> dict[str, Any]:
    scale = report.shown.scale
    traces = []
    for index, curve in enumerate(report.curves):
        points = {float(n): scale * score for n, score in zip(curve.labels, curve.means, strict=True)}
        trace = line(html.escape(curve.name), COLOURS[index % len(COLOURS)], points, bold=curve.name == BASELINE)
        ends = [(0.0, 0.0) if one is None else (mean - one.low, one.high - mean)
                for mean, one in zip(curve.means, curve.intervals, strict=True)]  # fmt: skip
        below, above = ([scale * end[side] for end in ends] for side in (0, 1))
        traces.append({**trace, "error_y": bars(below, above)})
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Labels"}},
            "yaxis": {"title": {"text": html.escape(f"{report.metric}{report.shown.ending}")}},
            "margin": {"t": 20}, "legend": {"orientation": "h", "y": -0.25}, "height": 480,
        },
    }  # fmt: skip
