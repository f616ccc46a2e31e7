"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import words
from .data import ReportData, Row
from .figures import figures

TEMPLATES = Path(__file__).parent / "templates"


def to_html(data: ReportData) -> str:
    """The page, with plotly's script inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        data=data,
        columns=_columns(data),
        rows=[(row, _cells(row, data.metric)) for row in data.rows],
        findings=words.findings(data),
        memory_note=words.memory_note(data),
        figures=[(name, title, Markup(text)) for name, title, text in figures(data)],
        runs=[_run(record) for record in data.records],
        # plotly's own code: the only text that is not escaped, and no data is in it
        plotly=Markup(get_plotlyjs()),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )


def _columns(data: ReportData) -> list[str]:
    metric = data.metric.replace("_", " ")
    return ["Method", metric.capitalize(), "95 % interval",
            f"Difference to {data.baseline}{words.compared_in(data)}, points", "Verdict", "Runs",
            "Trained parameters", data.memory_title, "The same, predicted",
            "GPU memory, predicted", "Peak at evaluation", "Peak RSS of the process", "Adapter on disk",
            "Training time", "Rows/s", "Tokens/s", "Learning rate"]  # fmt: skip


def _cells(row: Row, metric: str) -> list[tuple[str, float | str]]:
    """What is shown, and what it is sorted by."""
    artifact, memory = row.first.artifact, row.memory
    predicted = memory.predicted if memory else None
    samples = row.mean(lambda run: run.samples_per_second)
    tokens = row.mean(lambda run: run.tokens_per_second)
    train = row.mean(lambda run: run.seconds.get("train"))
    interval = f"{words.spread(row, metric)} ({row.interval_kind})" if row.interval else ""

    def number(value: float | None) -> float:
        return -1.0 if value is None else float(value)

    return [
        (row.name, row.name),
        (words.score(row.score, metric), number(row.score)),
        (interval, number(row.interval.low if row.interval else None)),
        (
            words.difference(row),
            row.against.difference if row.against else (0.0 if row.is_baseline else -1.0),
        ),
        (row.verdict, row.verdict),
        (words.runs(row), float(len(row.done))),
        (f"{words.count(row.trained)} ({words.percent(row.share_trained)})", number(row.trained)),
        (
            words.bytes_(memory.training.peak if memory else None),
            number(memory.training.peak if memory else None),
        ),
        (
            words.bytes_(predicted.training_peak if predicted else None),
            number(predicted.training_peak if predicted else None),
        ),
        (
            words.bytes_(predicted.gpu_training_peak if predicted else None),
            number(predicted.gpu_training_peak if predicted else None),
        ),
        (
            words.bytes_(memory.evaluation.peak if memory else None),
            number(memory.evaluation.peak if memory else None),
        ),
        (words.bytes_(memory.peak_rss if memory else None), number(memory.peak_rss if memory else None)),
        (
            f"{words.bytes_(artifact.bytes)} ({words.percent(artifact.share_of_base)} of the base)"
            if artifact
            else "–",
            number(artifact.bytes if artifact else None),
        ),
        (words.seconds(train), number(train)),
        (words.rate(samples), number(samples)),
        (words.rate(tokens), number(tokens)),
        (words.learning_rates(row), number(row.learning_rates[0] if row.learning_rates else None)),
    ]


def _run(record: Any) -> dict[str, Any]:
    """What one run was made with, as names and texts."""
    facts = {
        "status": record.status if record.error is None else f"{record.status}: {record.error.message}",
        "metrics": ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items()),
        "seconds": ", ".join(f"{name} {value:g}" for name, value in record.seconds.items()),
        "steps": f"{record.steps}, best {record.best_step}",
        "learning rates tried": "; ".join(
            f"{trial.learning_rate:g}: {trial.status}"
            + (f" {trial.score:.4f}" if trial.score is not None else "")
            + (" (chosen)" if trial.chosen else "")
            for trial in record.trials
        ),
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
