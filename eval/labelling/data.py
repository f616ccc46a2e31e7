"""What a simulation has found: scores over the number of labels, by strategy and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..shown import Shown
from ..statistics import Interval
from .strategies import STRATEGIES

#: what the other strategies must beat
BASELINE = next(iter(STRATEGIES))


@dataclass(frozen=True)
class Curve:
    """One strategy.

    Attributes:
        name: of the strategy.
        labels: number of labels after each round.
        scores: by seed, after each round.
        means: over the seeds, after each round.
        intervals: 95 % t intervals of the means over the seeds; None for one seed.
        area: mean of the scores over all rounds but the first, which is the same for all.
        difference: of the area from that of random rows, in pairs of one seed; None of these themselves, and without
            them.
        difference_interval: its 95 % t interval over the seeds; None for one seed.
        equivalent: labels at which random rows reach the last mean; ``>`` before it if they do not; empty of these
            themselves.
    """

    name: str
    labels: Sequence[int]
    scores: Mapping[int, Sequence[float]]
    means: Sequence[float]
    intervals: Sequence[Interval | None]
    area: float
    difference: float | None
    difference_interval: Interval | None
    equivalent: str


@dataclass(frozen=True)
class Report:
    """A simulation.

    Attributes:
        title: of the spec.
        metric: the primary metric.
        unit: of the metric; ``%``: scores are shares, from 0 to 1.
        higher_is_better: which way it is better.
        seeds: of the spec.
        curves: in the spec's order.
        folder: output folder.
    """

    title: str
    metric: str
    unit: str
    higher_is_better: bool
    seeds: Sequence[int]
    curves: Sequence[Curve]
    folder: Path

    @property
    def shown(self) -> Shown:
        """How its scores are shown."""
        return Shown(self.unit)

    def difference(self, curve: Curve) -> str:
        """Difference of the area from random rows, with interval and verdict, for people."""
        if curve.difference is None:
            return ""
        found = self.shown.number(curve.difference, signed=True)
        ends = curve.difference_interval
        if ends is None:
            return found
        verdict = "inconclusive"
        if not ends.contains_zero:
            verdict = "better" if (curve.difference > 0) == self.higher_is_better else "worse"
        return f"{found} ({self.shown.spread(ends, signed=True)}) {verdict}"
