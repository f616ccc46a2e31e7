"""Scores per class of each run, if the task has classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pefttools.errors import UnknownNameError
from pefttools.tasks import tasks
from pefttools.tasks.labels.classes import ClassReport, class_report

from ..records import RUNS, RunRecord, read_predictions
from .data import ReportData

#: how many of the most frequent confusions are shown
MISTAKES = 10


def reports(data: ReportData) -> list[dict[str, Any]]:
    """For each run with classes: its id, its classes from worst to best, and its most frequent mistakes."""
    found = []
    for record in data.records:
        report = _report(data.folder, record)
        if report is not None:
            classes = sorted(report.classes, key=lambda one: (one.f1, one.label))
            found.append({"id": record.id, "classes": classes, "mistakes": report.mistakes()[:MISTAKES]})
    return found


def _report(folder: Path | None, record: RunRecord) -> ClassReport | None:
    if folder is None or record.status != "ok":
        return None
    try:
        has_classes = "label" in tasks.get(record.task).roles
    except UnknownNameError:  # of a plugin that is not installed here
        return None
    entries = read_predictions(folder / RUNS / record.id) if has_classes else []
    if not entries or not {"prediction", "reference"} <= entries[0].keys():
        return None
    predictions, references = ([str(entry[name]) for entry in entries] for name in ("prediction", "reference"))
    return class_report(predictions, references, sorted({*predictions, *references}))
