"""From the scores of a simulation to its report, and to the files that hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pefttools.files import canonical_json, write_text_atomic

from ..curves.equivalent import labels_for
from ..statistics import seeds_interval
from .data import BASELINE, Curve, Report
from .page import to_html
from .spec import LabellingSpec

JSON, HTML = "labelling.json", "labelling.html"


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
    content = asdict(report)
    del content["folder"]
    write_text_atomic(report.folder / JSON, canonical_json(content))
    write_text_atomic(report.folder / HTML, to_html(report))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
