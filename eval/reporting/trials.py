"""The trials of a search as text, and whether it ended at the edge of the rates it tried."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import RunRecord, Trial
from .data import ReportData


@dataclass(frozen=True)
class Line:
    """One trial of one run, as text.

    Attributes:
        row: name of the report's row.
        seed: of the run.
        note: chosen, at the edge, beyond the grid, or why it gave no result.
    """

    row: str
    seed: int
    learning_rate: str
    score: str
    loss: str
    steps: int
    note: str


def lines(data: ReportData) -> list[Line]:
    """Every trial of every run that tried more than one learning rate."""
    return [
        Line(
            row.name, run.seed, rates(trial), _number(trial.score), _number(trial.loss), trial.steps,
            note(trial, run),
        )
        for row in data.rows
        for run in row.runs
        if len(run.trials) > 1
        for trial in sorted(run.trials, key=_rates)
    ]  # fmt: skip


def rates(trial: Trial) -> str:
    """The learning rates of a trial: the method's, and the head's if it is different."""
    if trial.head_learning_rate in (None, trial.learning_rate):
        return f"{trial.learning_rate:g}"
    return f"{trial.learning_rate:g}, head {trial.head_learning_rate:g}"


def _rates(trial: Trial) -> tuple[float, float]:
    head = trial.learning_rate if trial.head_learning_rate is None else trial.head_learning_rate
    return trial.learning_rate, head


def note(trial: Trial, run: RunRecord) -> str:
    """What is noteworthy about a trial."""
    parts = []
    if trial.chosen:
        parts.append("chosen")
        if (edge := at_edge(run)) is not None:
            parts.append(f"the {edge} tried")
    if trial.beyond:
        parts.append("beyond the grid")
    if trial.did_not_learn:
        parts.append(f"did not learn: {trial.did_not_learn}")
    if trial.status != "ok":
        parts.append(f"{trial.status}: {trial.error or ''}".rstrip(": "))
    return ", ".join(parts)


def at_edge(run: RunRecord) -> str | None:
    """``largest`` or ``smallest``, if the chosen learning rate is that of several; None if it lies between others."""
    chosen = [_rates(trial) for trial in run.trials if trial.chosen]
    for which, rates_ in enumerate(zip(*map(_rates, run.trials), strict=True)):
        if chosen and len(set(rates_)) > 1:
            edge = {max(rates_): "largest", min(rates_): "smallest"}.get(chosen[0][which])
            if edge is not None:
                return edge
    return None


def in_one_line(run: RunRecord) -> str:
    """All trials of a run."""
    return "; ".join(
        f"{rates(trial)}: {_number(trial.score)}"
        + (f" (loss {_number(trial.loss)})" if trial.loss is not None else "")
        + (f", {text}" if (text := note(trial, run)) else "")
        for trial in run.trials
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
