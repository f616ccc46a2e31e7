"""What a report shows, computed once from the records in a comparison's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..environment import Environment
from ..records import RunRecord, read_records
from ..statistics import Common, Comparison, Models, common_variance, compare
from .data import ReportData, ResultRow
from .fronts import front
from .measured import interval_of, measured_on, models_of, rows_of
from .reading import check, planned, planned_ids, planned_of_row, read_summary, values_of_rows
from .robustness import under_conditions

#: label and variant
Key = tuple[str, str]


def build(folder: Path) -> ReportData:
    """From the folder of a comparison.

    Raises:
        DataError: no records there, a damaged one, or records that do not belong to one comparison.
    """
    found = read_records(folder)
    records = planned(folder, found)
    check(folder, records)
    title, baseline = read_summary(folder)
    groups: dict[Key, list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.label, record.variant), []).append(record)
    base_key = _baseline_key(groups, baseline)
    base = groups[base_key] if base_key is not None else []
    measure = records[0].measure
    models = {key: models_of(values_of_rows(folder, runs), runs, base or runs, measure) for key, runs in groups.items()}
    comparisons, common = _compared(models, base_key, measure.margin, records[0].greater_is_better)
    planned_runs = planned_of_row(folder)
    usual = _usual(records)
    baseline_learned = not base or any(run.did_not_learn is None for run in base if run.status == "ok")
    rows = [
        replace(
            _row(key, runs, models[key], common),
            name=_name(key, groups),
            against=comparisons.get(key),
            unpaired=_on_other_rows(runs, base),
            is_baseline=key == base_key,
            planned=planned_runs.get(key, len(runs)),
            made_elsewhere=_made_elsewhere(runs, usual),
            baseline_learned=baseline_learned,
        )
        for key, runs in groups.items()
    ]
    done = {record.id for record in records}
    ranked = tuple(_ranked(rows, 1.0 if records[0].greater_is_better else -1.0))
    return ReportData(
        title,
        baseline,
        records[0].primary_metric,
        measure,
        ranked,
        tuple(records),
        len(found) - len(records),
        tuple(one for one in planned_ids(folder) if one not in done),
        folder,
        under_conditions(folder, ranked, measure),
    )


def _baseline_key(groups: Mapping[Key, list[RunRecord]], baseline: str) -> Key | None:
    keys = [key for key, runs in groups.items() if key[0] == baseline and any(run.status == "ok" for run in runs)]
    return min(keys, key=lambda key: key[1] != "float32") if keys else None


def _compared(
    models: Mapping[Key, Models | None], base_key: Key | None, margin: float | None, higher_is_better: bool
) -> tuple[dict[Key, Comparison], Common | None]:
    known = {key: one for key, one in models.items() if one is not None}
    baseline = known.pop(base_key, None) if base_key is not None else None
    if baseline is None:
        return {}, common_variance(known.values())
    alike = {key: one for key, one in known.items() if one.rows == baseline.rows}
    return compare(alike, baseline, margin, higher_is_better=higher_is_better)


def _on_other_rows(runs: Sequence[RunRecord], base: Sequence[RunRecord]) -> tuple[int, ...]:
    """Seeds that were measured on other rows than the baseline: a folder may hold runs on older data."""
    on = rows_of(base or runs)
    return tuple(sorted(run.seed for run in runs if run.status == "ok" and measured_on(run) != on))


def _usual(records: Sequence[RunRecord]) -> Environment:
    """The environment in which most runs of a report were made."""
    environments = [record.environment for record in records]
    return max(
        environments, key=lambda one: sum(not one.differences(other, same_method=False) for other in environments)
    )


def _made_elsewhere(runs: Sequence[RunRecord], usual: Environment) -> tuple[tuple[int, tuple[str, ...]], ...]:
    codes = Counter(run.method_code for run in runs if run.status == "ok")
    found = []
    for run in runs:
        if run.status == "ok":
            how = run.environment.differences(usual, same_method=False)
            if run.method_code != codes.most_common(1)[0][0]:
                how.append("different code of the method")
            found.append((run.seed, tuple(how)))
    return tuple((seed, how) for seed, how in sorted(found) if how)


def _name(key: Key, groups: Mapping[Key, list[RunRecord]]) -> str:
    label, variant = key
    alone = sum(other == label for other, _ in groups) == 1
    return label if variant == "float32" or (alone and variant in label) else f"{label} ({variant})"


def _row(key: Key, runs: list[RunRecord], models: Models | None, common: Common | None) -> ResultRow:
    done = [run for run in runs if run.status == "ok"]
    scores = [run.score for run in done if run.score is not None]
    score = sum(scores) / len(scores) if scores else None
    interval, kind = interval_of(done, scores, models, common)
    names = dict.fromkeys(name for run in done for name in run.metrics)
    metrics = {
        name: sum(run.metrics[name] for run in done if name in run.metrics) / sum(name in run.metrics for run in done)
        for name in names
    }
    memory = next((run.memory for run in done if run.memory is not None), None)
    return ResultRow(
        label=key[0], variant=key[1], name=key[0], method=runs[0].method,
        runs=tuple(sorted(runs, key=lambda run: run.seed)), score=score, interval=interval, interval_kind=kind,
        deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None, metrics=metrics, against=None,
        unpaired=(), is_baseline=False, memory=memory,
    )  # fmt: skip


def _ranked(rows: list[ResultRow], sign: float) -> list[ResultRow]:
    """Rows from best to worst, with the Pareto fronts."""
    rows = sorted(rows, key=lambda row: (row.score is None, -sign * (row.score or 0.0), row.name))
    scores = [None if row.score is None else sign * row.score for row in rows]
    memory = front(zip(scores, [row.memory.training.peak if row.memory else None for row in rows], strict=True))
    parameters = front(zip(scores, [row.trained for row in rows], strict=True))
    return [
        replace(row, pareto_memory=index in memory, pareto_parameters=index in parameters)
        for index, row in enumerate(rows)
    ]
