"""The findings of a comparison as sentences, the same in every output."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.metrics import Measure

from ..statistics import Comparison
from .data import ReportData, ResultRow
from .formatting import bytes_, chance, difference, difference_unit, percent, reason, runs, unfinished
from .trials import at_edge
from .under import under_findings

#: below so many rows of a class, an average over classes varies more than its intervals say
ENOUGH_ROWS = 10


def findings(data: ReportData) -> list[str]:
    """What the comparison shows, one sentence each, including where it shows nothing."""
    found = []
    if (text := unfinished(data)) is not None:
        found.append(f"This comparison is unfinished: {text}")
    baseline = next((row for row in data.rows if row.is_baseline), None)
    scored = [row for row in data.rows if row.score is not None]
    if baseline is None:
        found.append(f"There is no result of the baseline {data.baseline!r}: nothing is compared.")
    found += _not_learned(data)
    compared = [
        (row, row.against)
        for row in scored
        if row.against is not None and baseline is not None and row.baseline_learned and not row.did_not_learn
    ]
    found += _verdicts(data, compared) + under_findings(data)
    measured = [row for row in scored if row.memory is not None]
    if measured and baseline is not None and baseline.memory is not None:
        least = min(measured, key=lambda row: row.memory.training.peak if row.memory else 0)
        assert least.memory is not None
        if least is not baseline and not data.mixed_memory:
            ratio = least.memory.training.peak / baseline.memory.training.peak
            found.append(
                f"{least.name} trains in the least memory: {bytes_(least.memory.training.peak)}, "
                f"{ratio:.2f} times that of {baseline.name}."
            )
    for row in data.rows:
        if not row.done:
            found.append(f"{row.name} gave no result ({row.first.status}): {reason(row.first)}")
        elif row.lost:
            listed = "; ".join(f"seed {run.seed} {run.status}, {reason(run)}" for run in row.lost)
            found.append(f"{row.name} is based on {runs(row)} runs, the others gave no result: {listed}")
        if row.unpaired:
            seeds = ", ".join(map(str, row.unpaired))
            found.append(f"{row.name}, seed {seeds}: measured on other rows than {data.baseline}, so not paired.")
    found += _searches(data) + _head_rate(data) + _busy(data) + _made_elsewhere(data) + _cut(data)
    seen = sorted({run.samples for row in data.rows for run in row.done if run.samples})
    if len(seen) > 1:
        found.append(f"Not all runs saw the same number of training rows: from {seen[0]:,} to {seen[-1]:,}.")
    if data.measure.signature:
        found.append(f"Signature of {data.metric}, to be quoted with it: {data.measure.signature}")
    if data.split == "validation":
        found.append(
            "There is no test split: the figures are from validation, which was also used to choose the best step and "
            "learning rate, so they flatter every method."
        )
    if data.left_out:
        found.append(f"{data.left_out} runs in the folder belong to an older spec and are left out.")
    return found


def _verdicts(data: ReportData, compared: Sequence[tuple[ResultRow, Comparison]]) -> list[str]:
    """What was shown about each method, and whether it is about the method or about one trained model."""
    found = []
    measure = data.measure
    unit = f" {difference_unit(measure)}".rstrip()
    for row, against in compared:
        if against.verdict in ("better", "worse"):
            what = row.name if against.about_methods else f"The one trained model of {row.name}"
            than = data.baseline if against.about_methods else f"that of {data.baseline}"
            said = f"{difference(row, measure)}{unit}, {chance(against.p)}"
            found.append(f"{what} is {against.verdict} than {than}: difference {said}.")
    for about_methods in (True, False):
        equal = [(r, a) for r, a in compared if a.verdict == "equal" and a.about_methods == about_methods]
        if equal:
            margin = (100 if measure.unit == "%" else 1) * (equal[0][1].margin or 0.0)
            within = f"{margin:g}{unit.removesuffix('s') if margin == 1 else unit}"
            what = f"Equal to {data.baseline}" if about_methods else f"Trained models equal to that of {data.baseline}"
            found.append(
                f"{what} to within {within}, by two one-sided tests: {_listed([row for row, _ in equal], measure)}."
            )
    in_unit = f" ({unit.strip()})" if unit else ""
    open_ = [(row, against) for row, against in compared if against.verdict == "inconclusive"]
    if wide := [row for row, against in open_ if against.interval.contains_zero]:
        found.append(
            f"No significant difference from {data.baseline}{in_unit}: {_listed(wide, measure)}. These intervals "
            "are too wide to call either better or to call them equal; more seeds or test rows are needed."
        )
    if close := [row for row, against in open_ if not against.interval.contains_zero]:
        found.append(
            f"Close calls against {data.baseline}{in_unit}: {_listed(close, measure)}. Each interval excludes 0, but "
            f"with {len(compared)} comparisons this is not significant after Holm correction."
        )
    if not compared:
        return found
    found.append(
        f"Differences are paired on {compared[0][1].rows:,} rows; 95 % intervals in brackets; p values Holm-corrected."
    )
    found += _rare_classes(data)
    if all(against.about_methods for _, against in compared):
        found.append("Intervals and p values include the variation between seeds and between rows.")
    else:
        found.append(
            "One seed: verdicts and intervals are about these trained models on other rows. They do not show that a "
            "method is better or worse: full fine-tuning also differs from itself with another seed. Compare methods "
            "with three seeds or more (seeds: [1, 2, 3])."
        )
    return found


def _rare_classes(data: ReportData) -> list[str]:
    """A warning if an average over classes has too few rows of one class for its interval to be right."""
    fewest = min((run.fewest_rows for run in data.records if run.fewest_rows is not None), default=None)
    if fewest is None or fewest >= ENOUGH_ROWS or not data.measure.over_classes:
        return []
    return [
        f"{data.metric} is an average over classes, and the rarest class has {fewest} rows: with fewer than "
        f"{ENOUGH_ROWS} per class intervals are too narrow, and verdicts too certain."
    ]


def _listed(rows: Sequence[ResultRow], measure: Measure) -> str:
    return "; ".join(f"{row.name} {difference(row, measure)}" for row in rows)


def _cut(data: ReportData) -> list[str]:
    """Rows that were truncated, by split; one line if it is the same for all methods, otherwise one for each."""
    lines: dict[str, list[str]] = {}
    for row in data.rows:
        for split, cuts in (row.done[0].cut if row.done else {}).items():
            if cuts.cut:
                lines.setdefault(cuts.line(split), []).append(row.name)
    everyone = len([row for row in data.rows if row.done])
    return [f"{line}." if len(names) == everyone else f"{', '.join(names)}: {line}." for line, names in lines.items()]


def _not_learned(data: ReportData) -> list[str]:
    found = []
    for row in data.rows:
        if row.did_not_learn:
            reason_ = next(run.did_not_learn for run in row.done if run.did_not_learn)
            rest = ": nothing can be compared with it" if row.is_baseline else ""
            found.append(f"{row.name} did not learn{rest}: {reason_}. Try other learning rates.")
        elif lost := [run for run in row.done if run.did_not_learn]:
            seeds = ", ".join(str(run.seed) for run in lost)
            found.append(f"{row.name}, seed {seeds}: did not learn: {lost[0].did_not_learn}.")
    return found


def _searches(data: ReportData) -> list[str]:
    found = []
    for row in data.rows:
        edges = [(run, edge) for run in row.done if (edge := at_edge(run)) is not None]
        for run, edge in edges:
            found.append(
                f"{row.name}, seed {run.seed}: the best learning rate, {run.learning_rate:g}, is the {edge} of the "
                f"{len(run.trials)} tried; a {'larger' if edge == 'largest' else 'smaller'} one may be better."
            )
    return found


def _head_rate(data: ReportData) -> list[str]:
    """A note if learning rates were searched, but not the head's: the figures depend on it just as much."""
    searched = [run for row in data.rows for run in row.done if len(run.trials) > 1]
    fixed = {run.head_learning_rate for run in searched if run.head_learning_rate != run.learning_rate} - {None}
    if len(fixed) != 1 or any(len({trial.head_learning_rate for trial in run.trials}) > 1 for run in searched
                              if run.head_learning_rate in fixed):  # fmt: skip
        return []
    return [
        f"The task head's learning rate was {fixed.pop():g} for every method and was not searched: "
        "search.head_learning_rate searches it too."
    ]


def _made_elsewhere(data: ReportData) -> list[str]:
    """Runs that were made with other versions or on another machine than most runs."""
    marked = []
    for row in data.rows:
        for how in dict.fromkeys(how for _, how in row.made_elsewhere):
            seeds = ", ".join(str(seed) for seed, own in row.made_elsewhere if own == how)
            marked.append(f"{row.name}, seed {seeds}: {'; '.join(how)}")
    return [f"† Made with different versions or on a different machine than most runs: {text}." for text in marked]


def _busy(data: ReportData) -> list[str]:
    busy = [run for run in data.records if run.busy_machine]
    found = []
    if busy:
        listed = ", ".join(f"{run.id} ({percent(run.busy_share)})" for run in busy)
        found.append(
            f"The machine was busy with other work; share of the training time in which the main thread ran: {listed}. "
            "Wall times of these runs are too long."
        )
    shared = [run.id for run in data.records if run.shared_card]
    if shared:
        found.append(
            f"Several runs shared one GPU at the same time: {', '.join(shared)}. Their times are too long, and "
            "the GPU's memory was not theirs alone."
        )
    return found
