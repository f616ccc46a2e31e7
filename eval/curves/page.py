"""A curve as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..pages import bars, line, page
from ..reporting.figures import COLOURS
from .data import Curve, Point

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(curve: Curve) -> str:
    """The page."""
    heads = ["labels per class", "training rows", "method", f"{curve.metric}{curve.shown.ending}", "95 % interval"]
    heads.append("seeds")
    if curve.baseline is not None:
        heads.append(f"labels per class that {curve.baseline} needs for it")
    rows = [_cells(point, curve)[: len(heads)] for point in curve.points]
    return page(_TEMPLATES, "curve.html", curve.title, _figure(curve), heads=heads, rows=rows)


def _figure(curve: Curve) -> dict[str, Any]:
    scale = curve.shown.scale
    traces = []
    for index, name in enumerate(curve.names):
        points = curve.of(name)
        scores = {float(point.per_class): scale * (point.score or 0.0) for point in points}
        trace = line(html.escape(name), COLOURS[index % len(COLOURS)], scores, bold=name == curve.baseline)
        ends = [(y, y) if p.interval is None else (scale * p.interval.low, scale * p.interval.high)
                for p, y in zip(points, scores.values(), strict=True)]  # fmt: skip
        below, above = ([abs(end[side] - y) for end, y in zip(ends, scores.values(), strict=True)] for side in (0, 1))
        traces.append({**trace, "error_y": bars(below, above)})
    sizes = curve.sizes
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Labels per class"}, "type": "log", "tickvals": sizes,
                      "ticktext": [str(size) for size in sizes]},
            "yaxis": {"title": {"text": html.escape(f"{curve.metric}{curve.shown.ending}")}},
            "margin": {"t": 20}, "legend": {"orientation": "h", "y": -0.25}, "height": 520,
        },
    }  # fmt: skip


def _cells(point: Point, curve: Curve) -> list[str]:
    return [
        str(point.per_class),
        str(point.rows or ""),
        point.name,
        curve.shown.number(point.score),
        curve.shown.spread(point.interval),
        str(point.seeds),
        "" if point.equivalent is None else point.equivalent.text,
    ]
