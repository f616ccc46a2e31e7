"""What a curve is: scores of methods over the number of labels per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..shown import Shown
from ..statistics import Interval


@dataclass(frozen=True)
class Equivalent:
    """How many labels per class the baseline needs for what a method reaches.

    Attributes:
        labels: the number; at its bound if the baseline's curve does not reach so far.
        beyond: ``<`` or ``>`` then; else empty.
        low: the same for the lower end of the 95 % interval of the paired difference; None if nothing is paired.
        high: the same for its upper end.
    """

    labels: float
    beyond: str
    low: tuple[float, str] | None = None
    high: tuple[float, str] | None = None

    @property
    def text(self) -> str:
        """For people: ``9.3 (7.9 to 11)``."""

        def one(labels: float, beyond: str) -> str:
            return f"{beyond}{labels:.3g}"

        found = one(self.labels, self.beyond)
        if self.low is None or self.high is None:
            return found
        return f"{found} ({one(*self.low)} to {one(*self.high)})"


@dataclass(frozen=True)
class Point:
    """One method at one number of labels per class.

    Attributes:
        per_class: labels per class.
        rows: training rows that this makes.
        name: label of the method, and its variant if it is not the default one.
        score: mean of the primary metric over the seeds; None if no run succeeded.
        interval: its 95 % interval.
        seeds: number of runs that succeeded.
        equivalent: None for the baseline itself, and without a score.
    """

    per_class: int
    rows: int | None
    name: str
    score: float | None
    interval: Interval | None
    seeds: int
    equivalent: Equivalent | None = None


@dataclass(frozen=True)
class Curve:
    """Scores over labels per class.

    Attributes:
        title: of the spec.
        metric: the primary metric.
        unit: of the metric; ``%``: scores are shares, from 0 to 1.
        higher_is_better: which way it is better.
        baseline: name of the baseline; None if the spec's is not among the methods.
        points: of all methods, by labels per class.
        folder: output folder.
    """

    title: str
    metric: str
    unit: str
    higher_is_better: bool
    baseline: str | None
    points: tuple[Point, ...]
    folder: Path

    @property
    def names(self) -> list[str]:
        """The methods, in the order of the first size."""
        return list(dict.fromkeys(point.name for point in self.points))

    @property
    def sizes(self) -> list[int]:
        """Numbers of labels per class, ascending."""
        return sorted({point.per_class for point in self.points})

    @property
    def shown(self) -> Shown:
        """How its scores are shown."""
        return Shown(self.unit)

    def of(self, name: str) -> list[Point]:
        """The points of a method that have a score."""
        return [point for point in self.points if point.name == name and point.score is not None]
