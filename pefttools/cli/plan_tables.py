"""What ``pefttools plan`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pefttools.planning.fits import Largest, cheapest_changes, fits
from pefttools.planning.plan import MemoryPlan, Planned, Shape
from pefttools.planning.request import PlanRequest
from pefttools.pool.planned import Serving


def of_training(question: PlanRequest, rows: Sequence[MemoryPlan]) -> Table:
    """A column per combination."""
    shape = question.shape
    title = f"{question.base}: {shape.batch_size} {question.rows}, "
    title += f"one of {shape.devices} devices, " if shape.devices > 1 else ""
    title += "with the kernels of this CPU" if not question.device.gpu else f"predicted for {question.device.title}"
    if objectives := question.planned[0].chosen_objectives():
        title += f", objective {' and '.join(one.name for one in objectives)}"
    lines: list[tuple[str, list[str]]] = [
        ("trained parameters", [f"{row.trainable_parameters:,}" for row in rows]),
        ("weights", [size(row.weights_bytes) for row in rows]),
        ("gradients", [size(row.gradients_bytes) for row in rows]),
        ("optimizer", [size(row.optimizer_bytes) for row in rows]),
        ("activations", [size(row.activations_bytes) for row in rows]),
        ("training peak", [size(row.peak_bytes) for row in rows]),
        ("  reached in", [row.peak_at for row in rows]),
        ("between two steps", [size(row.persistent_bytes) for row in rows]),
        (f"evaluation, {shape.eval_batch_size} rows", [size(row.evaluation_bytes) for row in rows]),
    ]
    if any(row.unquantized_bytes for row in rows):
        lines.insert(
            2, ("  not quantized", [size(row.unquantized_bytes) if row.unquantized_bytes else "–" for row in rows])
        )
    if any(row.generation_bytes for row in rows):
        lines.append((f"generation, {shape.eval_batch_size} rows", [size(row.generation_bytes) for row in rows]))
    if question.device.gpu:
        lines.append(("total on the device", [size(row.total_bytes) for row in rows]))
    return _columns(title, [(row.method, row.variant) for row in rows], lines)


def of_serving(question: PlanRequest, pools: Sequence[Serving]) -> Table:
    """A column per pool."""
    title = f"serving {pools[0].residents} adapters, {question.shape.eval_batch_size} {question.rows} at a time"
    lines = [
        ("base", [size(one.weights_bytes) for one in pools]),
        ("adapters", [size(one.adapters_bytes) for one in pools]),
        ("answering, peak", [size(one.answer_bytes) for one in pools]),
    ]
    if any(one.generation_bytes for one in pools):
        lines.append(("generating, peak", [size(one.generation_bytes) for one in pools]))
    lines.append(("total on the device", [size(one.total_bytes) for one in pools]))
    return _columns(title, [(one.method, one.variant) for one in pools], lines)


def of_largest(question: PlanRequest, planned: Planned, found: Sequence[Largest]) -> Table:
    """A line per card."""
    name = f"{planned.title} on {planned.variant}"
    table = Table(title=f"{name}: the largest training pass that fits on a card", title_justify="left")
    unit = planned.chosen_task().size_unit
    for head in ("card", question.rows, f"{unit.name} of one row"):
        table.add_column(head, justify="left" if head == "card" else "right")
    for one in found:
        length = f"{unit.shown(one.length):g}" if one.length else "none"
        table.add_row(one.card.title, str(one.batch_size or "none"), length)
    return table


def print_verdict(console: Console, planned: Planned, shape: Shape, row: MemoryPlan) -> dict[str, Any]:
    """Print whether a training run fits on its card, and what would fit; returns the same as a dictionary."""
    card = planned.device
    name = f"{planned.title} on {planned.variant}"
    assert card.memory is not None
    room = card.memory - row.total_bytes
    verdict: dict[str, Any] = {"method": row.method, "variant": row.variant, "card": card.name, "fits": room >= 0,
                               "room_bytes": room, "changes": []}  # fmt: skip
    if fits(row, card):
        console.print(f"{name}: [green]fits[/green] on {card.title}, with {size(room)} to spare")
        return verdict
    console.print(f"{name}: [red]does not fit[/red] on {card.title}: {size(-room)} too much")
    with console.status("looking for what would fit"):
        for change in cheapest_changes(planned, shape):
            sign = "[green]fits[/green]" if change.fits else "does not fit"
            console.print(f"  {change.text}: {size(change.row.total_bytes)}, {sign}")
            verdict["changes"].append(
                {"change": change.text, "total_bytes": change.row.total_bytes, "fits": change.fits}
            )
    if not any(change["fits"] for change in verdict["changes"]):
        console.print("  nothing that was tried fits")
    return verdict


def size(number: int) -> str:
    """Human-readable bytes."""
    return f"{number / 2**20:,.1f} MiB" if abs(number) < 2**30 else f"{number / 2**30:,.2f} GiB"


def _columns(title: str, heads: Sequence[tuple[str, str]], lines: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """A table with a line per figure and a column per combination."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for method, base in heads:
        table.add_column(f"{method}\n{base}", justify="right", overflow="fold")
    for name, cells in lines:
        table.add_row(name, *cells)
    return table
