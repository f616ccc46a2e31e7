"""What a report shows, worked out once from the records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.errors import DataError

from ..records import PREDICTIONS, RUNS, Memory, RunRecord, read_predictions, read_records
from ..statistics import Comparison, Interval, compare, judge, mean_interval, wilson_interval


@dataclass(frozen=True)
class Row:
    """One method on one base variant, over its seeds.

    Attributes:
        score: mean of the primary metric; None where no run ended well.
        interval: 95 % interval of the score; `interval_kind` says of what: ``seeds`` or ``test rows``.
        against: paired comparison with the baseline; None for the baseline itself and where nothing can be paired.
        memory: of the first seed: parts are exact and do not vary.
        pareto_memory: no other row is better at both score and training memory.
        pareto_parameters: the same for trained parameters.
    """

    label: str
    variant: str
    method: str
    runs: tuple[RunRecord, ...]
    score: float | None
    interval: Interval | None
    interval_kind: str
    metrics: dict[str, float]
    against: Comparison | None
    is_baseline: bool
    memory: Memory | None
    pareto_memory: bool = False
    pareto_parameters: bool = False

    @property
    def name(self) -> str:
        """Label, and the variant where it is not the plain one."""
        said = self.variant == "float32" or self.variant in self.label
        return self.label if said else f"{self.label} ({self.variant})"

    @property
    def done(self) -> tuple[RunRecord, ...]:
        """Runs that ended well."""
        return tuple(run for run in self.runs if run.status == "ok")

    @property
    def lost(self) -> tuple[RunRecord, ...]:
        """Runs that gave no result."""
        return tuple(run for run in self.runs if run.status != "ok")

    @property
    def first(self) -> RunRecord:
        """A run that ended well, else any."""
        return (self.done or self.runs)[0]

    @property
    def trained(self) -> int | None:
        """Trained parameters."""
        return self.first.parameters.get("trainable")

    @property
    def share_trained(self) -> float | None:
        """Trained parameters as a share of all."""
        total = self.first.parameters.get("total")
        return None if not total or self.trained is None else self.trained / total

    @property
    def verdict(self) -> str:
        """What can be said against the baseline."""
        if self.is_baseline:
            return "baseline"
        if self.score is None:
            return self.first.status
        if self.against is None:
            return "not compared"
        return f"{self.against.verdict}, interval too wide" if self.against.too_wide else self.against.verdict

    def mean(self, value: Callable[[RunRecord], float | None]) -> float | None:
        """Mean of a figure over the runs that ended well."""
        known = [one for one in map(value, self.done) if one is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class ReportData:
    """A comparison."""

    title: str
    baseline: str
    metric: str
    rows: tuple[Row, ...]
    records: tuple[RunRecord, ...]

    @property
    def test_rows(self) -> int | None:
        """Rows of the test split (of validation, where there is none)."""
        for record in self.records:
            if record.rows:
                return record.rows.get("test", record.rows.get("validation"))
        return None

    @property
    def seeds(self) -> list[int]:
        """All seeds."""
        return sorted({record.seed for record in self.records})

    @property
    def on_gpu(self) -> bool:
        """Whether the memory figures come from a GPU."""
        known = [row.memory for row in self.rows if row.memory is not None]
        return bool(known) and all(memory.cuda is not None for memory in known)

    @property
    def mixed_memory(self) -> bool:
        """Whether some memory figures come from a GPU and some were counted: they can't be compared."""
        return len({row.memory.source for row in self.rows if row.memory is not None}) > 1

    @property
    def memory_title(self) -> str:
        """Heading of the training memory; "GPU" stands only on what a GPU gave."""
        if self.mixed_memory:
            return "Peak training memory (differs in kind: see the note)"
        return "Peak GPU memory, training" if self.on_gpu else "Peak training memory (counted tensors)"


def build(folder: Path) -> ReportData:
    """From the folder of a comparison.

    Raises:
        DataError: no records there.
    """
    records = read_records(folder)
    spec = _spec(folder)
    baseline = str(spec.get("baseline", "full"))
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.label, record.variant), []).append(record)
    correct = {key: _correct(folder, runs) for key, runs in groups.items()}
    base_key = _baseline_key(groups, baseline)
    comparisons = judge(
        [
            None
            if base_key is None or key == base_key
            else compare(_on_same_rows(runs, groups[base_key], correct[key]), correct[base_key])
            for key, runs in groups.items()
        ]
    )
    rows = [
        _row(key, runs, correct[key], against, key == base_key)
        for (key, runs), against in zip(groups.items(), comparisons, strict=True)
    ]
    rows.sort(key=lambda row: (row.score is None, -(row.score or 0.0), row.name))
    return ReportData(
        str(spec.get("name", folder.name)),
        baseline,
        records[0].primary_metric,
        tuple(_with_fronts(rows)),
        tuple(records),
    )


def _baseline_key(groups: dict[tuple[str, str], list[RunRecord]], baseline: str) -> tuple[str, str] | None:
    keys = [key for key, runs in groups.items() if key[0] == baseline and any(run.status == "ok" for run in runs)]
    return min(keys, key=lambda key: key[1] != "float32") if keys else None


def _spec(folder: Path) -> dict[str, Any]:
    try:
        spec = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _correct(folder: Path, runs: Sequence[RunRecord]) -> dict[int, list[bool]]:
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


def _on_same_rows(
    runs: Sequence[RunRecord], base: Sequence[RunRecord], correct: dict[int, list[bool]]
) -> dict[int, list[bool]]:
    """Seeds that were tested on the very rows of the baseline: a folder may hold runs on older data."""
    tested = {run.seed: _tested_on(run) for run in base}
    same = {run.seed for run in runs if run.seed in tested and tested[run.seed] == _tested_on(run)}
    return {seed: answers for seed, answers in correct.items() if seed in same}


def _tested_on(run: RunRecord) -> str | None:
    return run.data.get("test" if run.test else "validation")


def _row(
    key: tuple[str, str],
    runs: list[RunRecord],
    correct: dict[int, list[bool]],
    against: Comparison | None,
    is_baseline: bool,
) -> Row:
    done = [run for run in runs if run.status == "ok"]
    scores = [run.score for run in done if run.score is not None]
    score, interval, kind = None, None, ""
    if scores:
        score, interval = mean_interval(scores)
        kind = "seeds"
        answers = next(iter(correct.values()), [])
        share = sum(answers) / len(answers) if answers else None
        # Right only where the metric is the share of right rows; any other has no interval with one seed.
        if interval is None and share is not None and abs(share - scores[0]) < 1e-9:
            interval, kind = wilson_interval(sum(answers), len(answers)), "test rows"
    names = dict.fromkeys(name for run in done for name in run.metrics)
    metrics = {
        name: sum(run.metrics[name] for run in done if name in run.metrics) / sum(name in run.metrics for run in done)
        for name in names
    }
    memory = next((run.memory for run in done if run.memory is not None), None)
    return Row(
        label=key[0], variant=key[1], method=runs[0].method, runs=tuple(sorted(runs, key=lambda run: run.seed)),
        score=score, interval=interval, interval_kind=kind if interval else "", metrics=metrics, against=against,
        is_baseline=is_baseline, memory=memory,
    )  # fmt: skip


def _with_fronts(rows: list[Row]) -> list[Row]:
    from dataclasses import replace

    memory = _front(rows, lambda row: row.memory.training.peak if row.memory else None)
    parameters = _front(rows, lambda row: row.trained)
    return [
        replace(row, pareto_memory=index in memory, pareto_parameters=index in parameters)
        for index, row in enumerate(rows)
    ]


def _front(rows: list[Row], cost: Callable[[Row], float | None]) -> set[int]:
    """Rows that no other beats at both score and cost."""
    known = [
        (index, row.score, price)
        for index, row in enumerate(rows)
        if row.score is not None and (price := cost(row)) is not None
    ]
    return {
        index
        for index, score, price in known
        if not any(
            (other >= score and cheaper <= price) and (other > score or cheaper < price) for _, other, cheaper in known
        )
    }
