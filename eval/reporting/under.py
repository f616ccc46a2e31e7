"""What was found under each condition of a spec, as sentences."""

from __future__ import annotations

from ..statistics import Comparison
from .data import ReportData, ResultRow, Under
from .formatting import chance, difference, difference_unit


def under_findings(data: ReportData) -> list[str]:
    """One sentence for each method that is better or worse under a condition, and one for the others."""
    found = [text for under in data.robustness for text in _under(data, under)]
    count = sum(len(_compared(under)) for under in data.robustness)
    if count:
        found.append(
            f"Differences under conditions are paired likewise; their p values are Holm-corrected together ({count})."
        )
    return found


def _compared(under: Under) -> list[tuple[ResultRow, Comparison]]:
    """The rows of which a verdict says something."""
    return [
        (row, row.against)
        for row in under.rows
        if row.against is not None and row.baseline_learned and not row.did_not_learn
    ]


def _under(data: ReportData, under: Under) -> list[str]:
    unit = f" {difference_unit(data.measure)}".rstrip()
    found, others = [], []
    for row, against in _compared(under):
        said = f"{difference(row, data.measure)}{unit}, {chance(against.p)}"
        if against.verdict in ("better", "worse"):
            what = row.name if against.about_methods else f"the one trained model of {row.name}"
            than = data.baseline if against.about_methods else f"that of {data.baseline}"
            found.append(f"Under {under.condition} {what} is {against.verdict} than {than}: difference {said}.")
        else:
            others.append(f"{row.name} {said}" + (" (equal)" if against.verdict == "equal" else ""))
    if others:
        found.append(f"Under {under.condition} no significant difference from {data.baseline}: {'; '.join(others)}.")
    return found
