"""From the results of a study to its report, and to the files that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pefttools.files import canonical_json, write_text_atomic
from pefttools.training.selection import choose_selection

from .data import Report, StrategyResult
from .measures import MEASURES, Matrix, Value, summary
from .page import to_html
from .plan import Study, id_of
from .strategies import Alone, Options, Strategy

JSON, HTML = "continual.json", "continual.html"

Results = Mapping[str, Mapping[str, Any]]


def report_of(study: Study, results: Results, notes: Sequence[str] = ()) -> Report:
    """The report of what is finished."""
    selection = choose_selection(study.spec.selection, study.task)
    measure = next((one.measure for one in study.task.metrics if one.name == selection.metric), None)
    labels = [one.label for one in study.strategies]
    baseline = study.spec.baseline if study.spec.baseline in labels else None
    matrices = {one.label: _matrices(study, one, results) for one in study.strategies}
    alone = _matrices(study, Alone(Options(), Alone.name), results)
    higher = selection.greater_is_better
    by_measure = {
        label: {one.name: _values(one.of, found, alone, higher) for one in MEASURES}
        for label, found in matrices.items()
    }
    rows = []
    for strategy in study.strategies:
        values: dict[str, Value] = {}
        for name, own in by_measure[strategy.label].items():
            against = None
            if baseline is not None and baseline != strategy.label:
                against = by_measure[baseline][name]
            if own:
                values[name] = summary(own, against)
        sequences = len(study.spec.sequences()) * len(study.spec.seeds)
        rows.append(
            StrategyResult(
                strategy.label,
                strategy.summary,
                matrices[strategy.label],
                sequences,
                values,
                _seconds(study, strategy, results),
            )
        )
    return Report(
        study.spec.name,
        study.spec.scenario,
        selection.metric,
        measure.unit if measure else "",
        higher,
        baseline,
        [(stage.name, stage.rows["train"], len(stage.labels)) for stage in study.stages],
        [[number + 1 for number in order] for order in study.spec.sequences()],
        study.spec.seeds,
        rows,
        [*notes, *_unlearned(results)],
        study.folder,
    )


def write(found: Report) -> None:
    """Write a report's files to its folder."""
    content = asdict(found)
    del content["folder"]
    for row, own in zip(content["strategies"], found.strategies, strict=True):
        row["matrices"] = [
            {"order": order + 1, "seed": seed, "scores": matrix} for (order, seed), matrix in own.matrices.items()
        ]
    write_text_atomic(found.folder / JSON, canonical_json(content))
    write_text_atomic(found.folder / HTML, to_html(found))


def _matrices(study: Study, strategy: Strategy[Any], results: Results) -> dict[tuple[int, int], Matrix]:
    """By number of the order and seed."""
    found: dict[tuple[int, int], Matrix] = {}
    for seed in study.spec.seeds:
        for number, order in enumerate(study.spec.sequences()):
            matrix = _matrix(study, strategy, results, order, seed)
            if matrix is not None:
                found[number, seed] = matrix
    return found


def _matrix(
    study: Study, strategy: Strategy[Any], results: Results, order: Sequence[int], seed: int
) -> list[list[float | None]] | None:
    """Scores after each step, in the order's own places; None if a step is not finished."""
    count = len(order)
    if strategy.kind == "alone":
        own = [_scores(results, id_of(study, strategy, seed, (number,))) for number in order]
        if any(scores is None for scores in own):
            return None
        diagonal = [scores[str(number)] for scores, number in zip(own, order, strict=True) if scores is not None]
        return [[diagonal[place] if place <= step else None for place in range(count)] for step in range(count)]
    rows: list[list[float | None]] = []
    for step in range(count) if strategy.kind != "joint" else [count - 1]:
        learned = order[: step + 1]
        scores = _scores(results, id_of(study, strategy, seed, learned))
        if scores is not None and strategy.kind == "routed":
            scores = scores[".".join(map(str, sorted(learned)))]
        if scores is None:
            return None
        rows.append([scores.get(str(number)) for number in order])
    return rows


def _scores(results: Results, name: str) -> dict[str, Any] | None:
    return dict(results[name]["scores"]) if name in results else None


def _values(
    of: Any, matrices: Mapping[tuple[int, int], Matrix], alone: Mapping[tuple[int, int], Matrix], higher: bool
) -> dict[tuple[int, int], float]:
    """A measure of every matrix that says it."""
    found = {}
    for key, matrix in matrices.items():
        bound = [row[place] for place, row in enumerate(alone[key])] if key in alone else []
        value = of(matrix, bound, higher) if bound else None
        if value is not None:
            found[key] = value
    return found


def _seconds(study: Study, strategy: Strategy[Any], results: Results) -> float:
    """Of one sequence, on average."""
    found = []
    for seed in study.spec.seeds:
        for order in study.spec.sequences():
            learned = [order[: step + 1] for step in range(len(order))]
            if strategy.kind in ("alone", "routed"):
                learned = [(number,) for number in order]
            ids = {id_of(study, strategy, seed, one) for one in learned}
            if strategy.kind in ("routed", "merged"):  # and the adapters that it is made of
                ids |= {id_of(study, Alone(Options(), Alone.name), seed, (number,)) for number in order}
            found.append(sum(float(results[one]["seconds"]) for one in sorted(ids) if one in results))
    return sum(found) / len(found)


def _unlearned(results: Results) -> list[str]:
    """Models that are no better than untrained ones."""
    return [
        f"{name} did not learn: {result['did_not_learn']}"
        for name, result in results.items()
        if result.get("did_not_learn")
    ]
