"""A simulation as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..reporting.figures import COLOURS, script_json
from .data import BASELINE, Report

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(report: Report) -> str:
    """The page, with plotly's script inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("labelling.html").render(
        report=report,
        baseline=BASELINE,
        figure=Markup(script_json(_figure(report))),
        # plotly's own code: the only text that is not escaped, and no data is in it
        plotly=Markup(get_plotlyjs()),
    )


def _figure(report: Report) -> dict[str, Any]:
    scale, unit = report.scale, f", {report.unit}" if report.unit else ""
    traces = []
    for index, curve in enumerate(report.curves):
        ends = [(0.0, 0.0) if one is None else (mean - one.low, one.high - mean)
                for mean, one in zip(curve.means, curve.intervals, strict=True)]  # fmt: skip
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": html.escape(curve.name),
                "x": list(curve.labels), "y": [scale * score for score in curve.means],
                "line": {"color": COLOURS[index % len(COLOURS)], "width": 3 if curve.name == BASELINE else 1.5},
                "error_y": {"type": "data", "symmetric": False, "thickness": 1, "width": 3,
                            "array": [scale * high for _, high in ends],
                            "arrayminus": [scale * low for low, _ in ends]},
            }
        )  # fmt: skip
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Labels"}},
            "yaxis": {"title": {"text": html.escape(f"{report.metric}{unit}")}},
            "margin": {"t": 20}, "legend": {"orientation": "h", "y": -0.25}, "height": 480,
        },
    }  # fmt: skip
