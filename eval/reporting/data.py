"""What a report shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pefttools.metrics import Measure

from ..records import Memory, RunRecord
from ..statistics import Comparison, Interval


@dataclass(frozen=True)
class ResultRow:
    """One method on one variant, over its seeds.

    Attributes:
        score: mean of the primary metric; None if no run succeeded.
        name: label, and the variant if it is not the default one; no two rows share it.
        interval: 95 % interval of the score; `interval_kind` says over what: ``test rows``, ``seeds and test rows``,
            ``seeds``, or the same with validation rows.
        deviation: standard deviation of the score between seeds; None with one.
        unpaired: seeds measured on other rows than the baseline.
        planned: number of runs in the spec.
        made_elsewhere: seeds, and how their runs were made differently from most of the report.
        baseline_learned: whether the baseline learned anything, so that it can be compared with.
        against: paired comparison with the baseline; None for the baseline itself and if nothing can be paired.
        memory: of the first seed: parts are exact and do not vary.
        pareto_memory: no other row is better in both score and training memory.
        pareto_parameters: the same for trained parameters.
        plain: of a row under a condition, the score on the rows as they are.
    """

    label: str
    variant: str
    name: str
    method: str
    runs: tuple[RunRecord, ...]
    score: float | None
    interval: Interval | None
    interval_kind: str
    deviation: float | None
    metrics: dict[str, float]
    against: Comparison | None
    unpaired: tuple[int, ...]
    is_baseline: bool
    memory: Memory | None
    planned: int = 0
    made_elsewhere: tuple[tuple[int, tuple[str, ...]], ...] = ()
    baseline_learned: bool = True
    pareto_memory: bool = False
    pareto_parameters: bool = False
    plain: float | None = None

    @property
    def done(self) -> tuple[RunRecord, ...]:
        """Runs that succeeded."""
        return tuple(run for run in self.runs if run.status == "ok")

    @property
    def lost(self) -> tuple[RunRecord, ...]:
        """Runs that gave no result."""
        return tuple(run for run in self.runs if run.status != "ok")

    @property
    def learning_rates(self) -> list[float]:
        """Those of the runs that succeeded: each seed chooses its own."""
        return sorted({run.learning_rate for run in self.done if run.learning_rate is not None})

    @property
    def first(self) -> RunRecord:
        """A run that succeeded, or else any."""
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
        """Whether no run that succeeded is better than an untrained model."""
        return bool(self.done) and all(run.did_not_learn is not None for run in self.done)

    @property
    def verdict(self) -> str:
        """The verdict against the baseline. A row that did not learn is neither better nor worse."""
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
        return verdict(self.against)

    def mean(self, value: Callable[[RunRecord], float | None]) -> float | None:
        """Mean of a figure over the runs that succeeded."""
        known = [one for one in map(value, self.done) if one is not None]
        return sum(known) / len(known) if known else None


def verdict(found: Comparison) -> str:
    """A verdict as text. With one seed it is about two trained models, and says so."""
    if found.about_methods or found.verdict == "inconclusive":
        return found.verdict
    return f"one seed: this model is {found.verdict}"


@dataclass(frozen=True)
class Under:
    """The methods under a condition, such as typos or an attack.

    Attributes:
        condition: its title.
        rows: as those of the report, with score, interval and comparison under the condition.
    """

    condition: str
    rows: tuple[ResultRow, ...]


@dataclass(frozen=True)
class ReportData:
    """A comparison."""

    title: str
    baseline: str
    metric: str
    measure: Measure
    rows: tuple[ResultRow, ...]
    records: tuple[RunRecord, ...]
    #: runs in the folder that are no longer in the spec
    left_out: int = 0
    #: runs in the spec that have no record yet; `planned` counts them too
    missing: tuple[str, ...] = ()
    #: where the runs' predictions are; None if nowhere
    folder: Path | None = None
    #: the same methods under each condition of the spec
    robustness: tuple[Under, ...] = ()

    @property
    def planned(self) -> int:
        """Number of runs in the spec."""
        return len(self.records) + len(self.missing)

    @property
    def split(self) -> str:
        """The split that was measured: ``test``, or ``validation`` if there is no test split."""
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
        """Heading of the training memory; "GPU" is only for what was measured on a GPU."""
        if self.mixed_memory:
            return "Peak training memory (of different kinds: see the note)"
        return "Peak GPU memory, training" if self.on_gpu else "Peak training memory (counted tensors)"
