"""The columns of the report's tables, defined once for HTML, Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import formatting
from .data import ReportData, ResultRow
from .tables import flat


@dataclass(frozen=True)
class Column:
    """One figure of every row.

    Attributes:
        key: of the figure in `flat`, by which a table is sorted and styled.
        title: the full heading.
        text: the text of a row's cell.
        heading: the heading in Markdown; the title if empty.
        narrow: the heading in a terminal; `heading` if empty.
        narrow_text: the text of a cell in a terminal; `text` if None.
        value: what a cell is sorted by; the figure if None.
    """

    key: str
    title: str
    text: Callable[[ResultRow], str]
    heading: str = ""
    narrow: str = ""
    narrow_text: Callable[[ResultRow], str] | None = None
    value: Callable[[ResultRow], float] | None = None

    @property
    def in_markdown(self) -> str:
        """Its heading there."""
        return self.heading or self.title

    @property
    def in_terminal(self) -> str:
        """Its heading there."""
        return self.narrow or self.in_markdown

    def in_narrow(self, row: ResultRow) -> str:
        """The text of its cell in a terminal."""
        return (self.narrow_text or self.text)(row)


@dataclass(frozen=True)
class Cell:
    """One cell of an HTML table."""

    text: str
    value: float | str


#: scores and costs
RESULTS = (
    "label", "score", "interval_low", "seed_deviation", "difference", "verdict", "seeds", "trained_parameters",
    "training_peak_bytes", "artifact_bytes", "train_seconds",
)  # fmt: skip
#: scores under a condition
UNDER = ("label", "score", "plain", "interval_low", "seed_deviation", "difference", "verdict", "seeds")
UNDER_TERMINAL = ("label", "score", "plain", "interval_low", "difference")
#: memory and speed in full
RESOURCES = (
    "label", "training_peak_bytes", "predicted_training_peak_bytes", "predicted_gpu_training_peak_bytes",
    "evaluation_peak_bytes", "peak_rss_bytes", "train_cpu_seconds", "samples_per_second", "tokens_per_second",
    "learning_rates",
)  # fmt: skip
#: training memory by parts: the size of each at the peak, and its maximum at any moment
PARTS = (
    "label", "training_peak_bytes", "training_weights_bytes", "training_gradients_bytes", "training_optimizer_bytes",
    "training_other_bytes",
)  # fmt: skip
MARKDOWN = (*RESULTS, "train_cpu_seconds", "samples_per_second")
TERMINAL = (
    "label", "score", "interval_low", "difference", "trained_parameters", "training_peak_bytes", "artifact_bytes",
    "train_seconds", "train_cpu_seconds",
)  # fmt: skip

NOTEBOOK = (
    "label", "score", "interval_low", "difference", "verdict", "trained_parameters", "training_peak_bytes",
    "artifact_bytes", "train_cpu_seconds",
)  # fmt: skip


def chosen(data: ReportData, keys: Iterable[str]) -> list[Column]:
    """Columns by their keys."""
    known = {column.key: column for column in (*_scores(data), *_costs(data))}
    return [known[key] for key in keys]


def html_rows(data: ReportData, columns: Iterable[Column]) -> list[list[Cell]]:
    """A cell for each column, per row of the report."""
    found = []
    for row in data.rows:
        figures = {**flat(row, data.metric), "score": row.score}
        found.append([Cell(column.text(row), _sorted_by(column, row, figures)) for column in columns])
    return found


def _sorted_by(column: Column, row: ResultRow, figures: dict[str, Any]) -> float | str:
    value = figures[column.key] if column.value is None else column.value(row)
    return -1.0 if value is None else value if isinstance(value, str) else float(value)


def _scores(data: ReportData) -> list[Column]:
    measure, unit = data.measure, formatting.difference_unit(data.measure)
    kinds = {row.interval_kind for row in data.rows if row.interval is not None}
    of_one_kind = len(kinds) == 1

    def score(row: ResultRow) -> str:
        return formatting.score(row.score, measure)

    def interval(row: ResultRow) -> str:
        """The interval, and what it covers, unless the heading says so for all."""
        said = formatting.spread(row, measure)
        return said if of_one_kind or row.interval is None else f"{said} ({row.interval_kind})"

    return [
        Column("label", "Method", lambda row: row.name, "method"),
        Column(
            "score", data.metric.replace("_", " ").capitalize(), score, data.metric,
            narrow_text=lambda row: row.first.status if row.score is None else score(row),
        ),
        Column(
            "interval_low", f"95 % interval ({next(iter(kinds))})" if of_one_kind else "95 % interval", interval,
            "95 % interval", "95 %", lambda row: formatting.spread(row, measure),
        ),
        Column(
            "plain", "Drop from plain rows" if measure.higher_is_better else "Rise from plain rows",
            lambda row: formatting.loss_of_score(row, measure), narrow="lost",
            value=lambda row: -1.0 if row.plain is None or row.score is None else abs(row.plain - row.score),
        ),
        Column("seed_deviation", "Between seeds", lambda row: formatting.deviation(row, measure), "between seeds"),
        Column(
            "difference", f"Difference to {data.baseline}" + (f", {unit}" if unit else ""),
            lambda row: formatting.difference(row, measure),
            f"difference to {data.baseline}" + (f" ({unit})" if unit else ""),
            f"vs {data.baseline}", lambda row: formatting.difference_in_short(row, measure),
            value=lambda row: row.against.difference if row.against else (0.0 if row.is_baseline else -1.0),
        ),
        Column("verdict", "Verdict", lambda row: row.verdict, "verdict"),
        Column("seeds", "Runs", formatting.runs, "runs"),
    ]  # fmt: skip


def _costs(data: ReportData) -> list[Column]:
    def figure(key: str, title: str, show: Callable[[Any], str], heading: str = "", narrow: str = "") -> Column:
        return Column(key, title, lambda row: show(flat(row, data.metric)[key]), heading, narrow)

    peak = data.memory_title.lower().replace("gpu", "GPU"), "GPU peak" if data.on_gpu else "peak *"
    parts = {"weights": "Weights", "gradients": "Gradients", "optimizer": "Optimizer state", "other": "Activations"}
    return [
        Column(
            "trained_parameters", "Trained parameters",
            lambda row: f"{formatting.count(row.trained)} ({formatting.percent(row.share_trained)})",
            "trained parameters", "trained", lambda row: formatting.count(row.trained),
        ),
        Column(
            "artifact_bytes", "Adapter on disk (share of base)", formatting.artifact, "adapter",
            narrow_text=lambda row: formatting.bytes_(row.first.artifact.bytes if row.first.artifact else None),
        ),
        Column(
            "learning_rates", "Learning rate", formatting.learning_rates,
            value=lambda row: row.learning_rates[0] if row.learning_rates else -1.0,
        ),
        Column("predicted_training_peak_bytes", "The same, predicted", lambda row: formatting.predicted(row.memory)),
        *(_part(name, title) for name, title in parts.items()),
        figure("training_peak_bytes", data.memory_title, formatting.bytes_, *peak),
        figure("train_seconds", "Training time", formatting.seconds, "training", "time"),
        figure("train_cpu_seconds", "CPU time of training", formatting.seconds, "CPU time", "cpu"),
        figure("samples_per_second", "Rows/s", formatting.rate, "rows/s"),
        figure("tokens_per_second", "Tokens/s", formatting.rate),
        figure("predicted_gpu_training_peak_bytes", "GPU memory, predicted", formatting.bytes_),
        figure("evaluation_peak_bytes", "Peak at evaluation", formatting.bytes_),
        figure("peak_rss_bytes", "Peak RSS of the process", formatting.bytes_),
    ]  # fmt: skip


def _part(name: str, title: str) -> Column:
    def most(row: ResultRow) -> float:
        if row.memory is None:
            return -1.0
        return float(getattr(row.memory.training_most or row.memory.training, name))

    return Column(
        f"training_{name}_bytes",
        title,
        lambda row: "–" if row.memory is None else formatting.part(row.memory, name),
        value=most,
    )
