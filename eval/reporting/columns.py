"""The columns of the HTML report's tables: what a cell shows, and what it is sorted by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pefttools.metrics import Measure

from ..records import Memory
from . import words
from .data import ReportData, Row

#: text and sorting value
Cell = tuple[str, float | str]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its head.
        cell: of a row.
    """

    title: str
    cell: Callable[[Row], Cell]


def results(data: ReportData) -> list[Column]:
    """What was reached, and at what price."""
    measure, unit = data.measure, words.difference_unit(data.measure)
    kinds = {row.interval_kind for row in data.rows if row.interval is not None}
    alike = len(kinds) == 1
    several = any(row.deviation is not None for row in data.rows)
    return [
        _METHOD,
        Column(
            data.metric.replace("_", " ").capitalize(),
            lambda row: (words.score(row.score, measure), _number(row.score)),
        ),
        Column(
            f"95 % interval ({kinds.pop()})" if alike else "95 % interval", lambda row: _interval(row, measure, alike)
        ),
        *([Column("Between seeds", lambda row: (words.deviation(row, measure), _number(row.deviation)))] * several),
        Column(f"Difference to {data.baseline}" + (f", {unit}" if unit else ""), lambda row: _difference(row, measure)),
        Column("Verdict", lambda row: (row.verdict, row.verdict)),
        Column("Runs", lambda row: (words.runs(row), float(len(row.done)))),
        Column("Trained parameters", _trained),
        Column(data.memory_title, _bytes(lambda memory: memory.training.peak)),
        Column("Adapter on disk, of the base", _artifact),
        Column("Training time", _mean(words.seconds, lambda run: run.seconds.get("train"))),
    ]


def resources(data: ReportData) -> list[Column]:
    """Memory and speed in full."""
    return [
        _METHOD,
        Column(data.memory_title, _bytes(lambda memory: memory.training.peak)),
        Column("The same, predicted", _predicted),
        Column("GPU memory, predicted", _bytes(lambda m: m.predicted.gpu_training_peak if m.predicted else None)),
        Column("Peak at evaluation", _bytes(lambda memory: memory.evaluation.peak)),
        Column("Peak RSS of the process", _bytes(lambda memory: memory.peak_rss)),
        Column("CPU time of training", _mean(words.seconds, lambda run: run.seconds.get("train_cpu"))),
        Column("Rows/s", _mean(words.rate, lambda run: run.samples_per_second)),
        Column("Tokens/s", _mean(words.rate, lambda run: run.tokens_per_second)),
        Column(
            "Learning rate",
            lambda row: (words.learning_rates(row), _number(row.learning_rates[0] if row.learning_rates else None)),
        ),
    ]


def parts(data: ReportData) -> list[Column]:
    """Training memory by parts: what each is at the peak, and the most that it is at any moment."""
    titles = {"weights": "Weights", "gradients": "Gradients", "optimizer": "Optimizer state", "other": "Activations"}
    return [
        _METHOD,
        Column(data.memory_title, _bytes(lambda memory: memory.training.peak)),
        *(Column(title, _part(name)) for name, title in titles.items()),
    ]


_METHOD = Column("Method", lambda row: (row.name, row.name))


def _number(value: float | None) -> float:
    return -1.0 if value is None else float(value)


def _interval(row: Row, measure: Measure, alike: bool) -> Cell:
    """The interval, and what it is of unless the heading says so for all."""
    if row.interval is None:
        return "", -1.0
    said = words.spread(row, measure)
    return said if alike else f"{said} ({row.interval_kind})", row.interval.low


def _difference(row: Row, measure: Measure) -> Cell:
    value = row.against.difference if row.against else (0.0 if row.is_baseline else -1.0)
    return words.difference(row, measure), value


def _trained(row: Row) -> Cell:
    return f"{words.count(row.trained)} ({words.percent(row.share_trained)})", _number(row.trained)


def _artifact(row: Row) -> Cell:
    artifact = row.first.artifact
    if artifact is None:
        return "–", -1.0
    return f"{words.bytes_(artifact.bytes)} ({words.percent(artifact.share_of_base)})", artifact.bytes


def _part(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        if row.memory is None:
            return "–", -1.0
        return words.part(row.memory, name), float(getattr(row.memory.training_most or row.memory.training, name))

    return cell


def _predicted(row: Row) -> Cell:
    predicted = row.memory.predicted if row.memory else None
    return words.predicted(row.memory), _number(predicted.training_peak if predicted else None)


def _bytes(part: Callable[[Memory], float | None]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = None if row.memory is None else part(row.memory)
        return words.bytes_(value), _number(value)

    return cell


def _mean(show: Callable[[float | None], str], of_run: Callable[..., float | None]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = row.mean(of_run)
        return show(value), _number(value)

    return cell
