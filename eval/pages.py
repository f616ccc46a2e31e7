"""Pages with one figure: each is one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plotting import SHARED, compressed_plotly
from .reporting.figures import script_json


def page(templates: Path, name: str, title: str, figure: Mapping[str, Any], **content: Any) -> str:
    """A page, with plotly's script inside.

    Args:
        templates: folder of the template.
        name: of the template, which extends ``figure.html`` and has a place with the id ``figure``.
        title: of the page.
        figure: for plotly; names in it are escaped already.
        content: what else the template shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader([templates, SHARED]), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name).render(
        title=title,
        figure=Markup(script_json(dict(figure))),
        plotly=compressed_plotly(),
        **content,
    )


def line(name: str, colour: str, points: Mapping[float, float], *, bold: bool = False) -> dict[str, Any]:
    """A line with markers for plotly.

    Args:
        name: escaped already.
        colour: of the line.
        points: y by x.
        bold: whether it is the one that others are compared with.
    """
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(points),
        "y": list(points.values()),
        "line": {"color": colour, "width": 3 if bold else 1.5},
    }


def bars(below: list[float], above: list[float]) -> dict[str, Any]:
    """Error bars of a line for plotly: how far they reach below and above each point."""
    return {"type": "data", "symmetric": False, "thickness": 1, "width": 3, "array": above, "arrayminus": below}
