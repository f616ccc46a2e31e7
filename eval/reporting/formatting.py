"""Numbers in words, the same in every output."""

from __future__ import annotations

from pefttools.metrics import Measure

from ..records import TOLERANCE, Memory, RunRecord
from .data import ReportData, ResultRow


def score(value: float | None, measure: Measure) -> str:
    """A metric's value."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if measure.unit == "%" else f"{value:.4g}"


def spread(row: ResultRow, measure: Measure) -> str:
    """The interval of a row's score."""
    if row.interval is None:
        return ""
    scale, form = (100, ".1f") if measure.unit == "%" else (1, ".4g")
    return f"{scale * row.interval.low:{form}}–{scale * row.interval.high:{form}}"


def deviation(row: ResultRow, measure: Measure) -> str:
    """Standard deviation of a row's score between its seeds."""
    if row.deviation is None:
        return "–"
    return f"{100 * row.deviation:.2f} points" if measure.unit == "%" else f"{row.deviation:.3g}"


def difference(row: ResultRow, measure: Measure) -> str:
    """Difference to the baseline, with its interval, in the unit of `difference_unit`."""
    if row.against is None:
        return ""
    against = row.against
    scale, form = (100, "+.1f") if measure.unit == "%" else (1, "+.3g")
    low, high = scale * against.interval.low, scale * against.interval.high
    return f"{scale * against.difference:{form}} ({low:{form}} to {high:{form}})"


def loss_of_score(row: ResultRow, measure: Measure) -> str:
    """By how much the score of a row under a condition is worse than on the rows as they are."""
    if row.plain is None or row.score is None:
        return "–"
    lost = row.plain - row.score if measure.higher_is_better else row.score - row.plain
    return f"{100 * lost:.1f} points" if measure.unit == "%" else f"{lost:.3g}"


def difference_in_short(row: ResultRow, measure: Measure) -> str:
    """The same without its interval, but with a sign for the verdict."""
    if row.is_baseline:
        return "baseline"
    if row.did_not_learn:
        return "did not learn"
    if row.against is None:
        return ""
    sign = {"inconclusive": "~", "equal": "="}.get(row.against.verdict, "")
    return f"{difference(row, measure).partition(' (')[0]} {sign}".strip()


def difference_unit(measure: Measure) -> str:
    """The unit of a difference; empty if there is none."""
    return "points" if measure.unit == "%" else measure.unit


def runs(row: ResultRow) -> str:
    """How many of the planned runs the figures of a row are based on."""
    mark = " †" if row.made_elsewhere else ""
    return f"{len(row.done)} of {row.planned}{mark}"


def unfinished(data: ReportData) -> str | None:
    """How far an unfinished comparison has got; None if every planned run has a record."""
    if not data.missing:
        return None
    shown = ", ".join(data.missing[:8]) + (f" and {len(data.missing) - 8} more" if len(data.missing) > 8 else "")
    return f"{len(data.records)} of {data.planned} planned runs. Missing: {shown}."


def reason(run: RunRecord) -> str:
    """Why a run gave no result, in one line."""
    if run.error is None:
        return "no reason was recorded"
    return next(iter(run.error.message.splitlines()), "") or run.error.type


def chance(p: float) -> str:
    """A p value; how far it is below one in ten thousand says nothing more about the methods."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def artifact(row: ResultRow) -> str:
    """Size of what is saved, and its share of the base."""
    found = row.first.artifact
    return f"{bytes_(found.bytes)} ({percent(found.share_of_base)})" if found else "–"


def learning_rates(row: ResultRow) -> str:
    """All that the seeds of a row used."""
    return ", ".join(f"{rate:g}" for rate in row.learning_rates) or "–"


def rate(value: float | None) -> str:
    """Things per second."""
    if not value:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(value: float | None) -> str:
    """A large whole number."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def bytes_(value: float | None) -> str:
    """A size."""
    if value is None:
        return "–"
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 100 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f} B"


def part(memory: Memory, name: str) -> str:
    """A part of the training peak, with its maximum at any other moment, and what is not quantized, if any."""
    at_peak = bytes_(getattr(memory.training, name))
    most = bytes_(getattr(memory.training_most or memory.training, name))
    more = [f"at most {most}"] * (at_peak != most)
    if name == "weights" and memory.unquantized:
        more.append(f"{bytes_(memory.unquantized)} not quantized")
    return f"{at_peak} ({', '.join(more)})" if more else at_peak


def predicted(memory: Memory | None) -> str:
    """Predicted training memory, and how far it is from the measured, if that is beyond the tolerance."""
    if memory is None or memory.predicted is None:
        return "–"
    off = memory.predicted.training_peak / memory.training.peak - 1
    size = bytes_(memory.predicted.training_peak)
    return size if abs(off) <= TOLERANCE else f"{size} ({100 * off:+.0f} %)"


def percent(value: float | None) -> str:
    """A share."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.0f} %"


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return "–"
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"


def memory_note(data: ReportData) -> str:
    """How memory was measured."""
    if data.mixed_memory:
        counted = [row.name for row in data.rows if row.memory is not None and row.memory.source == "counted"]
        return (
            f"Memory: counted at tensor level for {', '.join(counted)}; measured by the CUDA allocator for the others. "
            "The two can't be compared, so a Pareto front over both means nothing."
        )
    if data.on_gpu:
        return "Memory: peak of the CUDA allocator, by parts; training and evaluation measured separately."
    return (
        "Memory: every tensor's storage, counted in a separate profiling step (an epoch's largest batch), by parts; "
        "training and evaluation measured separately. Peak RSS is that of the whole process, including Python and "
        "libraries. No figure here was measured on a GPU: GPU figures are predicted by tracing the same step with a "
        "GPU's kernels and allocator, without its context of some 500 MiB."
    )
