"""``pefttools plan``: memory before a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pefttools.planning.device import Device
    from pefttools.planning.plan import Planned, Row, Shape


def plan(
    base: str = typer.Argument(
        help="Folder (config.json will do), package: reference or hub id; or a recipe (.yaml).", metavar="BASE|RECIPE"
    ),
    task: str | None = typer.Option(None, "--task", help="Name of the task.  [default: sequence-classification]"),
    methods: str | None = typer.Option(None, "--methods", help="Names, with commas between.  [default: lora]"),
    bases: str | None = typer.Option(None, "--bases", help="Base variants, with commas between.  [default: float32]"),
    batch_size: int | None = typer.Option(None, "--batch-size", min=1, help="Rows of one step.  [default: 32]"),
    length: int | None = typer.Option(None, "--length", min=1, help="Tokens of each row.  [default: 128]"),
    accumulation: int | None = typer.Option(None, "--accumulation", min=1, help="Parts that a batch is computed in."),
    eval_batch_size: int | None = typer.Option(None, "--eval-batch-size", min=1, help="Rows at a time at evaluation."),
    checkpointing: str | None = typer.Option(
        None, "--gradient-checkpointing", help="false, true or selective: activations computed again."
    ),
    optimizer: str | None = typer.Option(None, "--optimizer", help="adamw, adamw_8bit or paged_adamw_8bit."),
    precision: str | None = typer.Option(None, "--precision", help="auto, float32 or bfloat16."),
    devices: int = typer.Option(1, "--devices", min=1, help="Devices that share a batch."),
    sharded: bool = typer.Option(
        False, "--sharded", help="They share weights, gradients and optimizer state too, by FSDP; else each has all."
    ),
    labels: int = typer.Option(2, "--labels", min=2, help="Number of labels, where the task has labels."),
    gpu: str = typer.Option("cpu", "--gpu", help="A card, gpu for one of no particular size, or cpu."),
    fit: bool = typer.Option(False, "--fit", help="Largest batch and length for training, per card, or on the --gpu."),
    overrides: list[str] = typer.Option([], "--set", help="Override a field of the recipe: field.field=value."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object last."),
) -> None:
    """Predict the memory of a training; no weights are loaded.

    Figures are for the CPU's kernels unless --gpu or --fit asks for a GPU's.
    """
    from rich.console import Console

    from pefttools.errors import ConfigError
    from pefttools.logs import quiet_libraries
    from pefttools.planning.ask import Asked, asked
    from pefttools.planning.device import CARDS, CPU, GPU, find_device

    quiet_libraries()
    device = find_device(gpu)
    device = GPU if fit and device is CPU else device
    given = {
        "batch_size": batch_size, "length": length, "accumulation": accumulation, "eval_batch_size": eval_batch_size,
        "gradient_checkpointing": checkpointing, "optimizer": optimizer, "precision": precision, "devices": devices,
        "sharded": sharded,
    }  # fmt: skip
    if overrides and not base.endswith((".yaml", ".yml")):
        raise ConfigError("--set overrides fields of a recipe, and there is none")
    question: Asked = asked(
        base, task, _names(methods), _names(bases), labels, overrides,
        {name: value for name, value in given.items() if value is not None}, device,
    )  # fmt: skip
    console = Console()
    shape = question.shape
    title = f"{question.base}: {shape.batch_size} rows of {shape.length} tokens, "
    title += f"one of {shape.devices} devices, " if shape.devices > 1 else ""
    title += "with the kernels of this CPU" if not question.device.gpu else f"predicted for {question.device.title}"
    found: dict[str, Any] = {"rows": []}
    # A card that is slow at bfloat16 computes in float32: ask for it by name.
    cards = [card for card in CARDS.values() if card.bfloat16] if device.memory is None else [device]
    rows = []
    for planned in question.planned:
        with console.status(f"{planned.title} on {planned.variant}"):
            row = planned.row(shape)
        rows.append(row)
        found["rows"].append(row.as_dict())
    console.print(_table(title, rows, question.device))
    for planned, row in zip(question.planned, rows, strict=True):
        if fit:
            found.setdefault("fit", []).extend(_print_largest(console, planned, shape, cards))
        elif question.device.memory is not None:
            found.setdefault("verdicts", []).append(_print_verdict(console, planned, shape, row))
    if as_json:
        print(json.dumps(found))


def _table(title: str, rows: list[Row], device: Device) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    heads = [
        "method",
        "base",
        "trained",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "peak",
        "at",
        "evaluation",
    ]
    heads += ["generation"] if any(row.generation_bytes for row in rows) else []
    heads += ["with device's own"] if device.gpu else []
    for head in heads:
        table.add_column(head, justify="left" if head in ("method", "base", "at") else "right", overflow="fold")
    for row in rows:
        parts = (row.weights_bytes, row.gradients_bytes, row.optimizer_bytes, row.activations_bytes, row.peak_bytes)
        cells = [row.method, row.base, f"{row.trainable_parameters:,}", *map(_size, parts), row.peak_at]
        cells.append(_size(row.evaluation_bytes))
        cells += [_size(row.generation_bytes)] if "generation" in heads else []
        cells += [_size(row.total_bytes)] if device.gpu else []
        table.add_row(*cells)
    return table


def _print_verdict(console: Console, planned: Planned, shape: Shape, row: Row) -> dict[str, Any]:
    from pefttools.planning.fits import cheapest_changes, fits

    card = planned.device
    name = f"{planned.title} on {planned.variant}"
    assert card.memory is not None
    room = card.memory - row.total_bytes
    verdict: dict[str, Any] = {"method": row.method, "base": row.base, "card": card.name, "fits": room >= 0,
                               "room_bytes": room, "changes": []}  # fmt: skip
    if fits(row, card):
        console.print(f"{name}: [green]fits[/green] on {card.title}, with {_size(room)} to spare")
        return verdict
    console.print(f"{name}: [red]does not fit[/red] on {card.title}: {_size(-room)} too much")
    with console.status("looking for what would fit"):
        for change in cheapest_changes(planned, shape):
            sign = "[green]fits[/green]" if change.fits else "does not fit"
            console.print(f"  {change.text}: {_size(change.row.total_bytes)}, {sign}")
            verdict["changes"].append(
                {"change": change.text, "total_bytes": change.row.total_bytes, "fits": change.fits}
            )
    if not any(change["fits"] for change in verdict["changes"]):
        console.print("  nothing that was tried fits")
    return verdict


def _print_largest(console: Console, planned: Planned, shape: Shape, cards: list[Device]) -> list[dict[str, Any]]:
    from rich.table import Table

    from pefttools.planning.fits import largest_that_fit

    with console.status("tracing a few sizes"):
        found = largest_that_fit(planned, shape, cards)
    name = f"{planned.title} on {planned.variant}"
    table = Table(title=f"{name}: the most that one training pass takes on a card", title_justify="left")
    for head in ("card", f"rows of {shape.length} tokens", "tokens of one row"):
        table.add_column(head, justify="left" if head == "card" else "right")
    for one in found:
        table.add_row(one.card.title, str(one.batch_size or "none"), str(one.length or "none"))
    console.print(table)
    return [
        {"method": planned.title, "base": planned.variant, "card": one.card.name, "batch_size": one.batch_size,
         "length": one.length} for one in found
    ]  # fmt: skip


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if abs(size) < 2**30 else f"{size / 2**30:,.2f} GiB"
