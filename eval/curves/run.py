"""A comparison at several numbers of labels per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pefttools.errors import ConfigError
from pefttools.files import canonical_json, write_text_atomic
from pefttools.progress import Reporter, SilentReporter
from pefttools.recipe import validate

from ..comparison import bench
from ..reporting import load_report
from ..reporting.data import ReportData, ResultRow
from ..spec import BenchSpec, load_spec
from .data import Curve, Equivalent, Point
from .equivalent import labels_for
from .page import to_html

#: of the files in the output folder
JSON, HTML = "curve.json", "curve.html"


def curve(
    spec: BenchSpec | str | Path | Mapping[str, Any],
    per_class: Sequence[int],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    reporter: Reporter | None = None,
) -> Curve:
    """Run a comparison at several numbers of labels per class, or what is left of it.

    Each number is a comparison in a folder of its own below the spec's output, with its own report. The rows of a
    smaller number are among those of every larger one. Validation and test rows stay the same.

    Args:
        spec: see `bench`; what it says of ``data.limit.train`` is replaced.
        per_class: labels per class, e.g. ``[4, 8, 16]``.
        overrides: see `bench`.
        jobs: see `bench`.
        reporter: shows progress.

    Raises:
        ConfigError: numbers that make no curve, or anything wrong with the spec.
        TrainingError: no run of a comparison succeeded.
    """
    if isinstance(spec, str | Path):
        spec = load_spec(Path(spec), overrides)
    elif not isinstance(spec, BenchSpec):
        spec = validate(BenchSpec, dict(spec), "spec")
    sizes = sorted(set(per_class))
    if len(sizes) < 2 or sizes[0] < 1:
        raise ConfigError("a curve needs two or more numbers of labels per class, each at least 1")
    reporter = reporter or SilentReporter()
    reports = {}
    for count in sizes:
        reporter.event(f"{count} labels per class")
        at_this = _sized(spec, count)
        bench(at_this, jobs=jobs, reporter=reporter)
        reports[count] = load_report(at_this.output)
    found = joined(spec.name, reports, spec.output)
    write(found)
    return found


def write(found: Curve) -> None:
    """Write a curve's files to its folder."""
    content = asdict(found)
    del content["folder"]
    write_text_atomic(found.folder / JSON, canonical_json(content))
    write_text_atomic(found.folder / HTML, to_html(found))


def _sized(spec: BenchSpec, count: int) -> BenchSpec:
    data = spec.data.model_copy(update={"limit": {**spec.data.limit, "train": f"{count} per class"}})
    update = {
        "name": f"{spec.name}, {count} labels per class",
        "data": data,
        "output": spec.output / f"{count}-per-class",
    }
    return spec.model_copy(update=update)


def joined(title: str, reports: Mapping[int, ReportData], folder: Path) -> Curve:
    """The curve of several comparisons of the same methods.

    Args:
        title: of the curve.
        reports: labels per class -> comparison, ascending.
        folder: output folder.
    """
    first = next(iter(reports.values()))
    better = first.measure.higher_is_better is not False
    baseline = next((row.name for row in first.rows if row.is_baseline), None)
    known = [
        (float(count), row.score if better else -row.score)
        for count, report in reports.items()
        for row in report.rows
        if row.is_baseline and row.score is not None
    ]
    points = [
        Point(
            count,
            row.first.rows.get("train"),
            row.name,
            row.score,
            row.interval,
            len(row.done),
            _equivalent(row, known, better),
        )
        for count, report in reports.items()
        for row in report.rows
    ]
    return Curve(title, first.metric, first.measure.unit, better, baseline, tuple(points), folder)


def _equivalent(row: ResultRow, known: Sequence[tuple[float, float]], better: bool) -> Equivalent | None:
    """Labels that the baseline needs for a row's score, and for the ends of its paired difference from the baseline."""
    if row.is_baseline or row.score is None or len(known) < 2:
        return None
    sign = 1.0 if better else -1.0
    labels, beyond = labels_for(sign * row.score, known)
    if row.against is None:
        return Equivalent(labels, beyond)
    base = row.score - row.against.difference
    ends = sorted(sign * (base + end) for end in (row.against.interval.low, row.against.interval.high))
    return Equivalent(labels, beyond, labels_for(ends[0], known), labels_for(ends[1], known))
