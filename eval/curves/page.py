"""A curve as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..reporting.figures import COLOURS, script_json
from .data import Curve, Point

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(curve: Curve) -> str:
    """The page, with plotly's script inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    unit = f", {curve.unit}" if curve.unit else ""
    heads = ["labels per class", "training rows", "method", f"{curve.metric}{unit}", "95 % interval", "seeds"]
    if curve.baseline is not None:
        heads.append(f"labels per class that {curve.baseline} needs for it")
    return environment.get_template("curve.html").render(
        curve=curve,
        heads=heads,
        rows=[_cells(point, curve)[: len(heads)] for point in curve.points],
        figure=Markup(script_json(_figure(curve))),
        # plotly's own code: the only text that is not escaped, and no data is in it
        plotly=Markup(get_plotlyjs()),
    )


def _figure(curve: Curve) -> dict[str, Any]:
    scale, unit = curve.scale, f", {curve.unit}" if curve.unit else ""
    traces = []
    for index, name in enumerate(curve.names):
        points = curve.of(name)
        scores = [scale * (point.score or 0.0) for point in points]
        ends = [(y, y) if p.interval is None else (scale * p.interval.low, scale * p.interval.high)
                for p, y in zip(points, scores, strict=True)]  # fmt: skip
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": html.escape(name),
                "x": [point.per_class for point in points], "y": scores,
                "line": {"color": COLOURS[index % len(COLOURS)], "width": 3 if name == curve.baseline else 1.5},
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                    "array": [high - y for (_, high), y in zip(ends, scores, strict=True)],
                    "arrayminus": [y - low for (low, _), y in zip(ends, scores, strict=True)],
                },
            }
        )  # fmt: skip
    sizes = curve.sizes
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Labels per class"}, "type": "log", "tickvals": sizes,
                      "ticktext": [str(size) for size in sizes]},
            "yaxis": {"title": {"text": html.escape(f"{curve.metric}{unit}")}},
            "margin": {"t": 20}, "legend": {"orientation": "h", "y": -0.25}, "height": 520,
        },
    }  # fmt: skip


def _cells(point: Point, curve: Curve) -> list[str]:
    ends, scale = point.interval, curve.scale
    return [
        str(point.per_class),
        str(point.rows or ""),
        point.name,
        curve.shown(point),
        "" if ends is None else f"{scale * ends.low:.1f}–{scale * ends.high:.1f}",
        str(point.seeds),
        "" if point.equivalent is None else point.equivalent.text,
    ]
