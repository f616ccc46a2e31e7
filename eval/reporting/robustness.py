"""Scores under the conditions of a spec, and each method's difference to the baseline there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pefttools.metrics import Measure

from ..records import RUNS, RunRecord
from ..row_values import read_row_values
from ..statistics import Common, Comparison, Models, common_variance, compare_all
from .data import ResultRow, Under
from .measured import interval_of, models_of

#: models by the name of their row
_Named = Mapping[str, Models]


def under_conditions(folder: Path, rows: Sequence[ResultRow], measure: Measure) -> tuple[Under, ...]:
    """What the report shows for each condition. The p values of all of them are corrected together.

    Args:
        folder: of the comparison.
        rows: of the report, measured on the rows as they are.
        measure: what the primary metric's number means.

    Raises:
        DataError: a damaged file.
    """
    titles = list(dict.fromkeys(title for row in rows for run in row.done for title in run.robustness))
    measured = [_measured_under(title, rows) for title in titles]
    models = [_models(folder, title, own, measure) for title, own in zip(titles, measured, strict=True)]
    compared = _compared(models, measured, measure)
    return tuple(
        Under(title, tuple(_row(title, row, models[at].get(row.name), *compared[at]) for row in measured[at]))
        for at, title in enumerate(titles)
    )


def _measured_under(title: str, rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The rows with those of their runs that were measured under a condition.

    What has its title can differ if the spec was changed and not run to its end: then what most runs were measured
    under counts, and the others are left out.
    """
    every = [_told(run, title) for row in rows for run in row.done if title in run.robustness]
    most, _ = Counter(every).most_common(1)[0]
    found = [
        replace(
            row,
            runs=tuple(run for run in row.done if title in run.robustness and _told(run, title) == most),
        )
        for row in rows
    ]
    return [row for row in found if row.runs]


def _told(run: RunRecord, title: str) -> str:
    """What was done in a run under a condition."""
    return json.dumps(run.robustness[title].settings, sort_keys=True)


def _models(folder: Path, title: str, rows: Sequence[ResultRow], measure: Measure) -> _Named:
    base: Sequence[RunRecord] = next((row.runs for row in rows if row.is_baseline), ())
    found = {}
    for row in rows:
        values: dict[int, NDArray[np.float64]] = {}
        for run in row.runs:
            own = read_row_values(folder / RUNS / run.id, run.primary_metric, title)
            if own is not None:
                values[run.seed] = own
        if (models := models_of(values, row.runs, base or row.runs, measure)) is not None:
            found[row.name] = models
    return found


def _compared(
    models: Sequence[_Named], rows: Sequence[Sequence[ResultRow]], measure: Measure
) -> list[tuple[Mapping[str, Comparison], Common | None]]:
    """For each condition, the comparisons with the baseline, and the variance between seeds."""
    groups = {}
    for at, (known, own) in enumerate(zip(models, rows, strict=True)):
        baseline = next((known[row.name] for row in own if row.is_baseline and row.name in known), None)
        if baseline is not None:
            groups[at] = (
                {n: one for n, one in known.items() if one is not baseline and one.rows == baseline.rows},
                baseline,
            )
    higher = all(row.first.greater_is_better for own in rows for row in own)
    found = dict(zip(groups, compare_all([*groups.values()], measure.margin, higher_is_better=higher), strict=True))
    return [found[at] if at in found else ({}, common_variance(one.values())) for at, one in enumerate(models)]


def _row(
    title: str, row: ResultRow, models: Models | None, compared: Mapping[str, Comparison], common: Common | None
) -> ResultRow:
    """A row with its figures under a condition."""
    metric = row.first.primary_metric
    found = [run.robustness[title].metrics for run in row.runs]
    scores = [one[metric] for one in found if metric in one]
    score = sum(scores) / len(scores) if scores else None
    plain = [run.score for run in row.runs if run.score is not None]
    interval, kind = interval_of(row.runs, scores, models, common)
    return replace(
        row,
        score=score,
        plain=sum(plain) / len(plain) if plain else None,
        interval=interval,
        interval_kind=kind,
        deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        metrics={name: sum(one[name] for one in found) / len(found) for name in found[0]},
        against=compared.get(row.name),
    )
