"""What a simulation has found: scores over the number of labels, by strategy and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pefttools.files import canonical_json, write_text_atomic

from ..curves.equivalent import labels_for
from ..statistics import Interval, seeds_interval
from .spec import LabellingSpec
from .strategies import STRATEGIES

JSON, HTML = "labelling.json", "labelling.html"
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
    def scale(self) -> float:
        """What scores are multiplied by to be shown."""
        return 100.0 if self.unit == "%" else 1.0

    def number(self, value: float | None, *, signed: bool = False) -> str:
        """A score, or a difference of scores, for people."""
        if value is None:
            return ""
        form = ("+" if signed else "") + (".1f" if self.unit == "%" else ".3g")
        return f"{self.scale * value + 0.0:{form}}"

    def difference(self, curve: Curve) -> str:
        """Difference of the area from random rows, with interval and verdict, for people."""
        if curve.difference is None:
            return ""
        found = self.number(curve.difference, signed=True)
        ends = curve.difference_interval
        if ends is None:
            return found
        verdict = "inconclusive"
        if not ends.contains_zero:
            verdict = "better" if (curve.difference > 0) == self.higher_is_better else "worse"
        return f"{found} ({self.number(ends.low, signed=True)} to {self.number(ends.high, signed=True)}) {verdict}"


def report_of(
    spec: LabellingSpec,
    metric: str,
    unit: str,
    higher_is_better: bool,
    scores: Mapping[tuple[str, int], Sequence[tuple[int, float]]],
) -> Report:
    """The report of scores by strategy and seed: number of labels and score, round by round."""
    by_name: dict[str, dict[int, list[float]]] = {}
    for (name, seed), rounds in scores.items():
        by_name.setdefault(name, {})[seed] = [score for _, score in rounds]
    labels = [count for count, _ in next(iter(scores.values()))]
    sign = 1.0 if higher_is_better else -1.0
    random = by_name.get(BASELINE)
    means = {name: [_mean(column) for column in zip(*own.values(), strict=True)] for name, own in by_name.items()}
    at_random = [(float(n), sign * y) for n, y in zip(labels, means[BASELINE], strict=True)] if random else []
    curves = []
    for name, own in by_name.items():
        columns = list(zip(*own.values(), strict=True))
        areas = {seed: _mean(line[1:]) for seed, line in own.items()}
        differences = None
        if random is not None and name != BASELINE:
            differences = [areas[seed] - _mean(random[seed][1:]) for seed in own]
        equivalent = ""
        if differences is not None and len(at_random) > 1:
            number, beyond = labels_for(sign * means[name][-1], at_random)
            equivalent = f"{beyond}{number:.0f}"
        curves.append(
            Curve(
                name,
                labels,
                own,
                means[name],
                [seeds_interval(column) for column in columns],
                _mean(list(areas.values())),
                None if differences is None else _mean(differences),
                None if differences is None else seeds_interval(differences),
                equivalent,
            )
        )
    return Report(spec.name, metric, unit, higher_is_better, spec.seeds, curves, spec.output)


def write(report: Report) -> None:
    """Write a report's files to its folder."""
    from .page import to_html

    content = asdict(report)
    del content["folder"]
    write_text_atomic(report.folder / JSON, canonical_json(content))
    write_text_atomic(report.folder / HTML, to_html(report))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
