"""What a report shows, worked out once from the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..records import Memory, RunRecord, read_records
from ..statistics import Comparison, Interval, compare, judge, mean_interval, wilson_interval
from .fronts import front
from .reading import check, planned, planned_ids, planned_of_row, read_summary, right_rows

_SHARES = ("accuracy", "precision", "recall", "f1", "exact_match")


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1 and reads best in percent."""
    return metric.startswith(_SHARES) or metric.endswith(("_accuracy",))


@dataclass(frozen=True)
class Row:
    """One method on one base variant, over its seeds.

    Attributes:
        score: mean of the primary metric; None where no run ended well.
        name: label, and the variant where it is not the plain one; no two rows share it.
        interval: 95 % interval of the score; `interval_kind` says of what: ``seeds``, ``test rows`` or
            ``validation rows``.
        unpaired: seeds measured on other rows than the baseline.
        planned: runs that the spec means.
        baseline_learned: whether the baseline learned anything, so that it can be compared with.
        against: paired comparison with the baseline; None for the baseline itself and where nothing can be paired.
        memory: of the first seed: parts are exact and do not vary.
        pareto_memory: no other row is better at both score and training memory.
        pareto_parameters: the same for trained parameters.
    """

    label: str
    variant: str
    name: str
    method: str
    runs: tuple[RunRecord, ...]
    score: float | None
    interval: Interval | None
    interval_kind: str
    metrics: dict[str, float]
    against: Comparison | None
    unpaired: tuple[int, ...]
    is_baseline: bool
    memory: Memory | None
    planned: int = 0
    baseline_learned: bool = True
    pareto_memory: bool = False
    pareto_parameters: bool = False

    @property
    def done(self) -> tuple[RunRecord, ...]:
        """Runs that ended well."""
        return tuple(run for run in self.runs if run.status == "ok")

    @property
    def lost(self) -> tuple[RunRecord, ...]:
        """Runs that gave no result."""
        return tuple(run for run in self.runs if run.status != "ok")

    @property
    def learning_rates(self) -> list[float]:
        """Of the runs that ended well: each seed chooses its own."""
        return sorted({run.learning_rate for run in self.done if run.learning_rate is not None})

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
    def did_not_learn(self) -> bool:
        """Whether no run that ended well is better than an untrained model."""
        return bool(self.done) and all(run.did_not_learn is not None for run in self.done)

    @property
    def verdict(self) -> str:
        """What can be said against the baseline. What did not learn is neither better nor worse."""
        if self.is_baseline:
            return "baseline, did not learn" if self.did_not_learn else "baseline"
        if self.score is None:
            return self.first.status
        if self.did_not_learn:
            return "did not learn"
        if not self.baseline_learned:
            return "not compared: the baseline did not learn"
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
    #: runs in the folder that the spec does not mean any more
    left_out: int = 0
    #: runs that the spec means and that have no record yet; `planned` counts them too
    missing: tuple[str, ...] = ()
    #: where the runs' predictions are; None: nowhere
    folder: Path | None = None

    @property
    def planned(self) -> int:
        """Runs that the spec means."""
        return len(self.records) + len(self.missing)

    @property
    def split(self) -> str:
        """What was measured on: ``test``, or ``validation`` where there is no test split."""
        return "test" if any("test" in record.rows or record.test for record in self.records) else "validation"

    @property
    def measured_rows(self) -> int | None:
        """Rows of that split."""
        return next((record.rows[self.split] for record in self.records if self.split in record.rows), None)

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
        DataError: no records there, a damaged one, or such as are no comparison.
    """
    found = read_records(folder)
    records = planned(folder, found)
    check(folder, records)
    title, baseline = read_summary(folder)
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.label, record.variant), []).append(record)
    correct = {key: right_rows(folder, runs) for key, runs in groups.items()}
    base_key = _baseline_key(groups, baseline)
    base = groups[base_key] if base_key is not None else []
    unpaired = {key: _on_other_rows(runs, base) for key, runs in groups.items()}
    comparisons = judge(
        [
            None
            if base_key is None or key == base_key
            else compare({s: c for s, c in correct[key].items() if s not in unpaired[key]}, correct[base_key])
            for key in groups
        ]
    )
    planned_runs = planned_of_row(folder)
    baseline_learned = not base or any(run.did_not_learn is None for run in base if run.status == "ok")
    rows = [
        replace(
            _row(key, runs, correct[key], against, key == base_key),
            name=_name(key, groups),
            unpaired=unpaired[key],
            planned=planned_runs.get(key, len(runs)),
            baseline_learned=baseline_learned,
        )
        for (key, runs), against in zip(groups.items(), comparisons, strict=True)
    ]
    sign = 1.0 if records[0].greater_is_better else -1.0
    rows.sort(key=lambda row: (row.score is None, -sign * (row.score or 0.0), row.name))
    scores = [None if row.score is None else sign * row.score for row in rows]
    memory = front(zip(scores, [row.memory.training.peak if row.memory else None for row in rows], strict=True))
    parameters = front(zip(scores, [row.trained for row in rows], strict=True))
    rows = [
        replace(row, pareto_memory=index in memory, pareto_parameters=index in parameters)
        for index, row in enumerate(rows)
    ]
    done = {record.id for record in records}
    missing = [one for one in planned_ids(folder) if one not in done]
    return ReportData(
        title,
        baseline,
        records[0].primary_metric,
        tuple(rows),
        tuple(records),
        len(found) - len(records),
        tuple(missing),
        folder,
    )


def _baseline_key(groups: dict[tuple[str, str], list[RunRecord]], baseline: str) -> tuple[str, str] | None:
    keys = [key for key, runs in groups.items() if key[0] == baseline and any(run.status == "ok" for run in runs)]
    return min(keys, key=lambda key: key[1] != "float32") if keys else None


def _name(key: tuple[str, str], groups: dict[tuple[str, str], list[RunRecord]]) -> str:
    label, variant = key
    alone = sum(other == label for other, _ in groups) == 1
    return label if variant == "float32" or (alone and variant in label) else f"{label} ({variant})"


def _on_other_rows(runs: Sequence[RunRecord], base: Sequence[RunRecord]) -> tuple[int, ...]:
    """Seeds that were measured on other rows than the baseline's: a folder may hold runs on older data."""
    measured = {run.seed: _measured_on(run) for run in base if run.status == "ok"}
    return tuple(
        sorted(
            run.seed
            for run in runs
            if run.status == "ok" and run.seed in measured and measured[run.seed] != _measured_on(run)
        )
    )


def _measured_on(run: RunRecord) -> str | None:
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
            split = "test" if done[0].test else "validation"
            interval, kind = wilson_interval(sum(answers), len(answers)), f"{split} rows"
        elif interval is not None and is_share(done[0].primary_metric):
            # The t interval of two seeds is easily wider than what is possible.
            interval = Interval(max(0.0, interval.low), min(1.0, interval.high))
    names = dict.fromkeys(name for run in done for name in run.metrics)
    metrics = {
        name: sum(run.metrics[name] for run in done if name in run.metrics) / sum(name in run.metrics for run in done)
        for name in names
    }
    memory = next((run.memory for run in done if run.memory is not None), None)
    return Row(
        label=key[0], variant=key[1], name=key[0], method=runs[0].method,
        runs=tuple(sorted(runs, key=lambda run: run.seed)), score=score, interval=interval,
        interval_kind=kind if interval else "", metrics=metrics, against=against,
        unpaired=(), is_baseline=is_baseline, memory=memory,
    )  # fmt: skip
