"""Advice in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..reporting.formatting import bytes_
from .choice import Advice, Candidate
from .evidence import Evidence

if TYPE_CHECKING:
    from rich.console import Console

_INFINITE = float("inf")


def print_advice(advice: Advice, console: Console) -> None:
    """A table, what to start with, and what is not known."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("method", overflow="fold")
    table.add_column("variant")
    for name in ("fits", "memory", "adapter", f"against {advice.baseline}" if advice.baseline else "score", "seeds"):
        table.add_column(name, justify="right")
    for one in advice.candidates:
        style = "" if one.fits is not False else "dim"
        cells = [
            "●" if one.near_best else "",
            one.label,
            one.plan.variant,
            _fits(one),
            bytes_(one.plan.total_bytes),
            bytes_(one.artifact_bytes),
            _gain(one.evidence),
            str(one.evidence.seeds) if one.evidence else "",
        ]
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print("● no significant difference from the best that fits", style="dim")
    for method, why in advice.left_out.items():
        console.print(Text(f"left out {method}: {why}", style="dim"))
    console.print()
    first = advice.first
    if first is None:
        console.print("Nothing is known that would favour one of them over another.")
    else:
        console.print(
            Text(f"Start with {first.label}, on {first.plan.variant}: {_reason(advice, first)}", style="bold")
        )
    for note in advice.notes:
        console.print(Text(f"- {note}"))


def _reason(advice: Advice, first: Candidate) -> str:
    near = sum(one.near_best for one in advice.candidates)
    assert first.evidence is not None
    against = f"{_gain(first.evidence)} in {first.evidence.comparison!r}"
    if near == 1:
        return f"the best of those that fit, {against}."
    return f"the smallest of the {near} adapters with no significant difference from the best, {against}."


def _fits(one: Candidate) -> str:
    return "" if one.fits is None else "yes" if one.fits else "no"


def _gain(evidence: Evidence | None) -> str:
    """The difference with its interval, as in the comparison's report."""
    if evidence is None:
        return "not known"
    if evidence.is_baseline:
        return "baseline"
    if evidence.difference is None or evidence.low is None or evidence.high is None:
        return "not compared"
    scale, form = (100, "+.1f") if evidence.unit == "%" else (1, "+.3g")
    unit = " points" if evidence.unit == "%" else f" {evidence.unit}" if evidence.unit else ""
    return (
        f"{scale * evidence.difference:{form}}{unit} ({scale * evidence.low:{form}} to {scale * evidence.high:{form}})"
    )
