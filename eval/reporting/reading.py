"""What a report reads of a comparison's folder, with what must hold before anything is averaged or compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pefttools.errors import DataError

from ..records import PREDICTIONS, RUNS, RunRecord, read_predictions


def check(folder: Path, records: Sequence[RunRecord]) -> None:
    """Refuse what would be averaged or compared without being alike in what must be.

    Raises:
        DataError: more than one task, or one run twice.
    """
    tasks = sorted({f"{record.task} ({record.primary_metric})" for record in records})
    if len(tasks) > 1:
        raise DataError(
            f"{folder} holds runs of more than one task: {', '.join(tasks)}",
            hint="Remove the older ones from its runs/, or give every comparison a folder of its own.",
        )
    seen: dict[tuple[str, str, int], str] = {}
    for record in records:
        key = (record.label, record.variant, record.seed)
        if key in seen:
            raise DataError(
                f"{folder} holds one run twice: {seen[key]} and {record.id} are both {record.label!r} on "
                f"{record.variant}, seed {record.seed}",
                hint="Remove one of them: as two seeds they would be counted wrongly.",
            )
        seen[key] = record.id


def planned(folder: Path, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records of the runs that the spec means now; all of them where the summary names none."""
    ids = planned_ids(folder)
    return [record for record in records if record.id in ids] or list(records)


def planned_ids(folder: Path) -> list[str]:
    """Runs that the spec means now; none where the summary does not say."""
    ids = _spec(folder).get("runs")
    return [_text(one) for one in ids] if isinstance(ids, list) else []


def planned_of_row(folder: Path) -> dict[tuple[str, str], int]:
    """Label and variant -> how many runs are planned; empty where the summary does not say."""
    rows = _spec(folder).get("rows")
    found = [tuple(map(_text, row)) for row in rows.values() if isinstance(row, list)] if isinstance(rows, dict) else []
    return {(row[0], row[1]): found.count(row) for row in found if len(row) == 2}


def read_summary(folder: Path) -> tuple[str, str]:
    """Title, and label of the baseline; defaults where the summary is missing or of another form."""
    spec = _spec(folder)
    return _text(spec.get("name") or folder.name), _text(spec.get("baseline") or "full")


def right_rows(folder: Path, runs: Sequence[RunRecord]) -> dict[int, list[bool]]:
    """Seed -> whether each row was answered rightly, for runs that ended well.

    Raises:
        DataError: damaged predictions.
    """
    found = {}
    for run in runs:
        if run.status == "ok":
            place = folder / RUNS / run.id
            try:
                found[run.seed] = [bool(entry["correct"]) for entry in read_predictions(place)]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{place / PREDICTIONS} is damaged: {error!r}", hint="Remove its folder, and run bench again."
                ) from error
    return found


def _spec(folder: Path) -> dict[str, Any]:
    try:
        spec = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _text(value: Any) -> str:
    """Text for a file: JSON may hold halves of surrogate pairs, UTF-8 can't."""
    return str(value).encode("utf-8", "replace").decode("utf-8")
