"""What a study has found: a matrix per strategy, order and seed, and the measures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..shown import Shown
from .measures import MEASURES, Matrix, Measure, Value


@dataclass(frozen=True)
class StrategyResult:
    """One strategy.

    Attributes:
        label: its name in the report.
        summary: what it does.
        matrices: by number of the order and seed; only finished ones.
        planned: number of sequences of the spec.
        values: by name of the measure; only those that the matrices say.
        seconds: of training and evaluating one sequence, on average.
    """

    label: str
    summary: str
    matrices: Mapping[tuple[int, int], Matrix]
    planned: int
    values: Mapping[str, Value]
    seconds: float

    @property
    def mean_matrix(self) -> list[list[float | None]]:
        """Mean over the sequences, place by place; None where one has none."""
        found: list[list[float | None]] = []
        for rows in zip(*self.matrices.values(), strict=True):
            cells: list[float | None] = []
            for scores in zip(*rows, strict=True):
                known = [score for score in scores if score is not None]
                cells.append(sum(known) / len(known) if len(known) == len(scores) else None)
            found.append(cells)
        return found

    @property
    def on_the_way(self) -> list[float]:
        """Mean score of the stages so far, by number of stages learned; empty where it isn't known."""
        if not self.matrices or len(self.mean_matrix) < 2:
            return []
        rows = [row[: learned + 1] for learned, row in enumerate(self.mean_matrix)]
        known = [[score for score in row if score is not None] for row in rows]
        return [sum(row) / len(row) for row in known] if all(known) else []


@dataclass(frozen=True)
class Report:
    """A study.

    Attributes:
        title: of the spec.
        scenario: of the spec.
        metric: the primary metric.
        unit: of the metric; ``%``: scores are shares, from 0 to 1.
        higher_is_better: which way it is better.
        baseline: label of the strategy that the others are compared with; None if it is not among them.
        stages: name, number of training rows and of labels of each.
        orders: numbers of the stages from 1, order by order.
        seeds: of the spec.
        strategies: in the spec's order.
        notes: what was noticed, such as work that failed.
        folder: output folder.
    """

    title: str
    scenario: str
    metric: str
    unit: str
    higher_is_better: bool
    baseline: str | None
    stages: Sequence[tuple[str, int, int]]
    orders: Sequence[Sequence[int]]
    seeds: Sequence[int]
    strategies: Sequence[StrategyResult]
    notes: Sequence[str]
    folder: Path

    @property
    def shown(self) -> Shown:
        """How its scores are shown."""
        return Shown(self.unit)

    @property
    def over(self) -> str:
        """What intervals are over."""
        if len(self.orders) > 1:
            return f"over {len(self.orders)} orders"
        return f"over {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""

    def verdict(self, measure: Measure, value: Value) -> str:
        """Whether a strategy is better than the baseline by one measure; empty where nothing is compared."""
        if value.difference is None or value.difference_interval is None:
            return ""
        if value.difference_interval.contains_zero:
            return "inconclusive"
        higher = not measure.a_loss if measure.signed else self.higher_is_better
        return "better" if (value.difference > 0) == higher else "worse"

    def measures(self) -> list[Measure]:
        """Those that some strategy has."""
        return [one for one in MEASURES if any(one.name in row.values for row in self.strategies)]
