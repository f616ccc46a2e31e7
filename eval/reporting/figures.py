"""The figures of the HTML report, by plotly. All names are escaped: plotly interprets some HTML in texts."""

from __future__ import annotations

import html
import json
import math
from typing import Any

from .data import ReportData, ResultRow

#: colours that stay distinguishable with most kinds of colour blindness (Okabe and Ito), then two more
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C564B",
    "#7F7F7F",
    "#B8A200",
    "#17A2A2",
)


def figures(data: ReportData) -> list[tuple[str, str, str]]:
    """Id, title and JSON (safe inside a script element) of every figure."""
    colours = {row.name: COLOURS[index % len(COLOURS)] for index, row in enumerate(data.rows)}
    scored = [row for row in data.rows if row.score is not None]
    measured = [row for row in scored if row.memory is not None]
    found = []
    if measured:
        memory = [row.memory.training.peak / 2**20 for row in measured if row.memory]
        figure = _scatter(measured, memory, [row.pareto_memory for row in measured], data, colours)
        figure["layout"]["xaxis"]["title"] = {"text": f"{data.memory_title}, MiB"}
        found.append(("memory", f"{_title(data.metric)} against memory", figure))
    if scored:
        trained = [float(max(row.trained or 0, 1)) for row in scored]
        figure = _scatter(scored, trained, [row.pareto_parameters for row in scored], data, colours)
        figure["layout"]["xaxis"] |= {"title": {"text": "Trained parameters"}, "type": "log"}
        found.append(("parameters", f"{_title(data.metric)} against trained parameters", figure))
    loss = _curves(data, "loss", colours)
    if loss["data"]:
        found.append(("loss", "Training loss", loss))
    validation = _curves(data, f"eval_{data.metric}", colours)
    if validation["data"]:
        found.append(("validation", f"Validation {data.metric}", validation))
    if measured:
        found.append(("parts", "Training memory by parts", _parts(measured)))
    return [(name, title, script_json(figure)) for name, title, figure in found]


def _scatter(
    rows: list[ResultRow], costs: list[float], front: list[bool], data: ReportData, colours: dict[str, str]
) -> dict[str, Any]:
    scale = 100.0 if data.measure.unit == "%" else 1.0
    traces: list[dict[str, Any]] = []
    points = sorted((cost, scale * (row.score or 0.0)) for row, cost, on in zip(rows, costs, front, strict=True) if on)
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
            "x": [x for x, _ in points], "y": [y for _, y in points],
            "line": {"color": "#999", "dash": "dot", "width": 1.5, "shape": "hv"},
        }
    )  # fmt: skip
    for row, cost in zip(rows, costs, strict=True):
        value = scale * (row.score or 0.0)
        errors = {}
        if row.interval is not None:
            errors["error_y"] = {
                "type": "data", "symmetric": False, "thickness": 1.2, "width": 4,
                "array": [scale * row.interval.high - value], "arrayminus": [value - scale * row.interval.low],
            }  # fmt: skip
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": html.escape(row.name), "x": [cost], "y": [value],
                "hoverinfo": "x+y+name",
                "marker": {"size": 11, "color": colours[row.name], "line": {"width": 1, "color": "#fff"}}, **errors,
            }
        )  # fmt: skip
    unit = ", %" if scale == 100.0 else ""
    return {"data": traces, "layout": _layout(f"{_title(data.metric)}{unit}", legend=True)}


def _curves(data: ReportData, key: str, colours: dict[str, str]) -> dict[str, Any]:
    traces = []
    for row in data.rows:
        shown = False
        # A run that diverged has the most informative curve: it is drawn too, dotted.
        for run in row.runs:
            points = [(e["step"], e[key]) for e in run.history if "step" in e and math.isfinite(e.get(key, math.nan))]
            if points:
                traces.append(
                    {
                        "type": "scatter", "mode": "lines+markers" if len(points) < 12 else "lines",
                        "name": html.escape(row.name), "legendgroup": html.escape(row.name), "showlegend": not shown,
                        "x": [x for x, _ in points], "y": [y for _, y in points],
                        "line": {"color": colours[row.name], "dash": "solid" if run.status == "ok" else "dot"},
                    }
                )  # fmt: skip
                shown = True
    layout = _layout(_title(key.removeprefix("eval_")), legend=True)
    layout["xaxis"]["title"] = {"text": "Step"}
    return {"data": traces, "layout": layout}


def _parts(rows: list[ResultRow]) -> dict[str, Any]:
    names = [html.escape(row.name) for row in rows]
    parts = (("weights", "Weights"), ("gradients", "Gradients"), ("optimizer", "Optimizer state"),
             ("other", "Activations and temporaries"))  # fmt: skip
    traces = [
        {
            "type": "bar", "orientation": "h", "name": title, "y": names, "marker": {"color": colour},
            "x": [getattr(row.memory.training, part) / 2**20 for row in rows if row.memory],
        }
        for (part, title), colour in zip(parts, ("#56789a", "#d9a441", "#b5651d", "#7fb285"), strict=True)
    ]  # fmt: skip
    layout = _layout("", legend=True)
    layout |= {"barmode": "stack"}
    layout["xaxis"]["title"] = {"text": "MiB at the peak"}
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True}
    layout["margin"] |= {"t": 40}  # below the buttons
    return {"data": traces, "layout": layout}


def _layout(y: str, *, legend: bool) -> dict[str, Any]:
    return {
        "margin": {"l": 60, "r": 20, "t": 20, "b": 55}, "height": 400, "showlegend": legend,
        "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "hovermode": "closest",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#333"},
        "legend": {"orientation": "h", "y": -0.25},
        "xaxis": {"gridcolor": "#eee", "zeroline": False},
        "yaxis": {"gridcolor": "#eee", "zeroline": False, "title": {"text": y}},
    }  # fmt: skip


def _title(metric: str) -> str:
    words_ = metric.replace("_", " ")
    return html.escape(words_[:1].upper() + words_[1:])


def script_json(value: Any) -> str:
    """JSON that can't end the script element that contains it."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
