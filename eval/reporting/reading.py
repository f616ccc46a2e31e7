"""What a report reads from a comparison's folder, and what must hold before anything is averaged or compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pefttools.errors import DataError

from ..records import RUNS, SUMMARY, RunRecord
from ..row_values import read_row_values


def check(folder: Path, records: Sequence[RunRecord]) -> None:
    """Refuse records that would be averaged or compared although they can't be.

    Raises:
        DataError: more than one task, or one run twice.
    """
    tasks = sorted({f"{record.task} ({record.primary_metric})" for record in records})
    if len(tasks) > 1:
        raise DataError(
            f"{folder} holds runs of more than one task: {', '.join(tasks)}",
            hint="Remove the older ones from its runs/, or give every comparison its own folder.",
        )
    seen: dict[tuple[str, str, int], str] = {}
    for record in records:
        key = (record.label, record.variant, record.seed)
        if key in seen:
            raise DataError(
                f"{folder} holds one run twice: {seen[key]} and {record.id} are both {record.label!r} on "
                f"{record.variant}, seed {record.seed}",
                hint="Remove one of them: they would wrongly be counted as two seeds.",
            )
        seen[key] = record.id


def planned(folder: Path, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records of the runs in the current spec; all of them if the summary names none."""
    ids = planned_ids(folder)
    return [record for record in records if record.id in ids] or list(records)


def planned_ids(folder: Path) -> list[str]:
    """Runs in the current spec; none if the summary does not say."""
    ids = _spec(folder).get("runs")
    return [_text(one) for one in ids] if isinstance(ids, list) else []


def planned_of_row(folder: Path) -> dict[tuple[str, str], int]:
    """Label and variant -> how many runs are planned; empty if the summary does not say."""
    rows = _spec(folder).get("rows")
    found = [tuple(map(_text, row)) for row in rows.values() if isinstance(row, list)] if isinstance(rows, dict) else []
    return {(row[0], row[1]): found.count(row) for row in found if len(row) == 2}


def read_summary(folder: Path) -> tuple[str, str]:
    """Title, and label of the baseline; defaults if the summary is missing or has another form."""
    spec = _spec(folder)
    return _text(spec.get("name") or folder.name), _text(spec.get("baseline") or "full")


def values_of_rows(folder: Path, runs: Sequence[RunRecord]) -> dict[int, NDArray[np.float64]]:
    """Seed -> what each row contributes to the primary metric, for runs that succeeded and have such numbers.

    Raises:
        DataError: a damaged file.
    """
    done = [run for run in runs if run.status == "ok"]
    found = {run.seed: read_row_values(folder / RUNS / run.id, run.primary_metric) for run in done}
    return {seed: values for seed, values in found.items() if values is not None}


def _spec(folder: Path) -> dict[str, Any]:
    try:
        spec = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _text(value: Any) -> str:
    """Text for a file: JSON may hold lone surrogates, UTF-8 can't."""
    return str(value).encode("utf-8", "replace").decode("utf-8")
