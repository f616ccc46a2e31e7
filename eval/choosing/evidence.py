"""What comparisons have shown about methods: a line per method and comparison."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pefttools.errors import ConfigError
from pefttools.files import write_text_atomic

from ..reporting import load_report
from ..reporting.data import ResultRow

#: the evidence from the comparisons that come with the package; made by `write_evidence`
KEPT = Path(__file__).parent / "evidence.json"


@dataclass(frozen=True)
class Evidence:
    """One method in one comparison.

    Attributes:
        comparison: its title.
        task: name of the task.
        metric: the primary metric.
        unit: of the difference.
        higher_is_better: which way the metric is better.
        base: the base's name.
        base_parameters: how many the base has, including the task's head.
        rows: of training.
        label: of the method in the comparison.
        method: its name and options.
        variant: number format of the base.
        seeds: number of runs that succeeded.
        score: mean of the metric.
        baseline: label of what it is compared with.
        baseline_score: its mean; None if it has none.
        difference: method minus baseline, paired by rows; None if nothing is compared.
        low: lower end of its 95 % interval.
        high: upper end.
        trained: parameters.
        weights_bytes: of the artifact's weights.
        peak_bytes: counted at the training peak.
    """

    comparison: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool
    base: str
    base_parameters: int
    rows: int
    label: str
    method: Mapping[str, Any]
    variant: str
    seeds: int
    score: float
    baseline: str
    baseline_score: float | None
    difference: float | None
    low: float | None
    high: float | None
    trained: int
    weights_bytes: int | None
    peak_bytes: int | None

    @property
    def is_baseline(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.label == self.baseline

    @property
    def gain(self) -> float | None:
        """The difference, positive if the method is better."""
        if self.difference is None:
            return 0.0 if self.is_baseline else None
        return self.difference if self.higher_is_better else -self.difference

    @property
    def doubt(self) -> float:
        """Half of the interval's length (with one seed, over test rows only); infinite if nothing was compared."""
        if self.is_baseline:
            return 0.0
        if self.low is None or self.high is None:
            return float("inf")
        return (self.high - self.low) / 2


def read_comparison(folder: Path) -> list[Evidence]:
    """Every method that gave a result, from a comparison's output folder.

    What was trained with an objective of its own, or on rows with passages, is left out: its score is not that of the
    method alone.

    Raises:
        DataError: the folder holds none.
    """
    data = load_report(folder)
    baseline = next((row for row in data.rows if row.is_baseline and row.score is not None), None)
    found = []
    for row in data.rows:
        if row.score is None or row.first.recipe.get("objective") or row.first.recipe.get("knowledge"):
            continue
        first, against = row.first, row.against
        found.append(
            Evidence(
                comparison=data.title,
                task=str(first.task),
                metric=data.metric,
                unit=data.measure.unit,
                higher_is_better=data.measure.higher_is_better is not False,
                base=_short(str(first.base["id"])),
                base_parameters=int(first.parameters["total"]),
                rows=int(first.rows["train"]),
                label=row.label,
                method=_choice(row),
                variant=row.variant,
                seeds=len(row.done),
                score=row.score,
                baseline=data.baseline,
                baseline_score=None if baseline is None else baseline.score,
                difference=None if against is None else against.difference,
                low=None if against is None else against.interval.low,
                high=None if against is None else against.interval.high,
                trained=int(first.parameters["trainable"]),
                weights_bytes=None if first.artifact is None else first.artifact.weights_bytes,
                peak_bytes=None if row.memory is None else row.memory.training.peak,
            )
        )
    # An adapter adds parameters to the base: the model with the fewest has only those of the base and the head.
    fewest = min((one.base_parameters for one in found), default=0)
    return [replace(one, base_parameters=fewest) for one in found]


def _short(name: str) -> str:
    """A base's short name: the package, or the last part of a path or a hub id."""
    if name.startswith("package:"):
        return Path(name.removeprefix("package:")).parts[0]
    return Path(name).name


def _choice(row: ResultRow) -> dict[str, Any]:
    """Name and those options of a method that are not its defaults."""
    from pefttools.methods import methods

    config = methods.get(row.method).config
    fields = config.model_fields
    given = {}
    for name, value in row.first.config.items():
        known = fields.get(name)
        plain = None if known is None or known.is_required() else known.get_default(call_default_factory=True)
        if json.loads(json.dumps(plain, default=str)) != value:
            given[name] = value
    return {"name": row.method, **given}


def read_kept(path: Path = KEPT) -> list[Evidence]:
    """What `write_evidence` wrote.

    Raises:
        ConfigError: the file has another form.
    """
    try:
        return [Evidence(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no evidence: {error}") from error


def write_evidence(evidence: Iterable[Evidence], path: Path = KEPT) -> None:
    """As JSON, a line each."""
    lines = ",\n".join(json.dumps(asdict(one), sort_keys=True) for one in evidence)
    write_text_atomic(path, f"[\n{lines}\n]\n")
