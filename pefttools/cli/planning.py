"""``pefttools plan``: memory before a run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from pefttools.planning.plan import Planned

Result = TypeVar("Result")


def plan(
    base: str = typer.Argument(
        help="Folder (config.json will do), package: reference or hub id; or a recipe (.yaml).", metavar="BASE|RECIPE"
    ),
    task: str | None = typer.Option(None, "--task", help="Name of the task.  [default: one label per text]"),
    methods: str | None = typer.Option(None, "--methods", help="Names, with commas between.  [default: LoRA]"),
    variants: str | None = typer.Option(
        None, "--variants", help="Number formats of the base, with commas between.  [default: float32]"
    ),
    bases: str | None = typer.Option(None, "--bases", hidden=True),
    batch_size: int | None = typer.Option(None, "--batch-size", min=1, help="Rows of one step.  [default: 32]"),
    length: int | None = typer.Option(None, "--length", min=1, help="Tokens of each row.  [default: 128]"),
    accumulation: int | None = typer.Option(None, "--accumulation", min=1, help="Parts that a batch is computed in."),
    eval_batch_size: int | None = typer.Option(
        None, "--eval-batch-size", min=1, help="Rows at a time at evaluation and serving."
    ),
    checkpointing: str | None = typer.Option(
        None, "--gradient-checkpointing", help="false, true or selective: activations computed again."
    ),
    optimizer: str | None = typer.Option(None, "--optimizer", help="adamw, adamw_8bit or paged_adamw_8bit."),
    precision: str | None = typer.Option(None, "--precision", help="auto, float32, bfloat16 or float16."),
    devices: int = typer.Option(1, "--devices", min=1, help="Devices that share a batch."),
    sharded: bool = typer.Option(
        False, "--sharded", help="They share weights, gradients and optimizer state too, by FSDP; else each has all."
    ),
    labels: int = typer.Option(2, "--labels", min=2, help="Number of labels, where the task has labels."),
    gpu: str = typer.Option("cpu", "--gpu", help="A card, gpu for one of no particular size, or cpu."),
    residents: int | None = typer.Option(
        None, "--residents", min=1, help="A pool that serves so many adapters at a time, too."
    ),
    fit: bool = typer.Option(False, "--fit", help="Largest batch and length for training, per card, or on the --gpu."),
    overrides: list[str] = typer.Option([], "--set", help="Override a field of the recipe: field.field=value."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object last."),
) -> None:
    """Predict the memory of a training; no weights are loaded.

    Figures are for the CPU's kernels unless --gpu or --fit asks for a GPU's.
    """
    from rich.console import Console

    from pefttools.cli import plan_tables
    from pefttools.errors import ConfigError
    from pefttools.logs import quiet_libraries
    from pefttools.planning.ask import Asked, asked
    from pefttools.planning.device import CARDS, CPU, GPU, find_device
    from pefttools.planning.fits import largest_that_fit
    from pefttools.pool.planned import plan_serving

    quiet_libraries()
    if bases is not None:
        print("--bases is called --variants now; the old name goes with the next minor version", file=sys.stderr)
        variants = variants or bases
    device = find_device(gpu)
    if fit and device is CPU:
        device = GPU  # each card of the table is asked about
    given = {
        "batch_size": batch_size, "length": length, "accumulation": accumulation, "eval_batch_size": eval_batch_size,
        "gradient_checkpointing": checkpointing, "optimizer": optimizer, "precision": precision, "devices": devices,
        "sharded": sharded,
    }  # fmt: skip
    if overrides and not base.endswith((".yaml", ".yml")):
        raise ConfigError("--set overrides fields of a recipe, and there is none")
    question: Asked = asked(
        base, task, _names(methods, "--methods"), _names(variants, "--variants"), labels, overrides,
        {name: value for name, value in given.items() if value is not None}, device,
    )  # fmt: skip
    console = Console()
    shape = question.shape
    # Cards before bfloat16 compute in another format than the table's others: ask for them by name.
    cards = [card for card in CARDS.values() if card.bfloat16] if device.memory is None else [device]
    rows = _each(console, question.planned, lambda one: one.row(shape))
    found: dict[str, Any] = {"rows": [row.as_dict() for _, row in rows]}
    console.print(plan_tables.of_training(question, [row for _, row in rows]))
    possible = [one for one, _ in rows]
    if residents is not None:
        served = [one for _, one in _each(console, possible, lambda one: plan_serving(one, shape, residents))]
        console.print(plan_tables.of_serving(shape, served))
        found["serving"] = [one.as_dict() for one in served]
    for planned, row in rows:
        if fit:
            with console.status("tracing a few sizes"):
                largest = largest_that_fit(planned, shape, cards)
            console.print(plan_tables.of_largest(planned, shape, largest))
            found.setdefault("fit", []).extend(
                {"method": planned.title, "variant": planned.variant, "card": one.card.name,
                 "batch_size": one.batch_size, "length": one.length} for one in largest
            )  # fmt: skip
        elif question.device.memory is not None:
            found.setdefault("verdicts", []).append(plan_tables.print_verdict(console, planned, shape, row))
    if as_json:
        print(json.dumps(found))


def _each(
    console: Console, combinations: Sequence[Planned], work: Callable[[Planned], Result]
) -> list[tuple[Planned, Result]]:
    """What each combination gives; one that can't be is named, unless there is no other.

    Raises:
        ConfigError: none can be.
    """
    from pefttools.errors import ConfigError

    found, errors = [], []
    for planned in combinations:
        name = f"{planned.title} on {planned.variant}"
        try:
            with console.status(name):
                found.append((planned, work(planned)))
        except ConfigError as error:
            errors.append(error)
            if len(combinations) > 1:
                console.print(f"[yellow]left out[/yellow] {name}: {error}", highlight=False)
    if not found:
        raise errors[0]
    return found


def _names(text: str | None, option: str) -> list[str] | None:
    from pefttools.errors import ConfigError

    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"{option} names none")
    return names
