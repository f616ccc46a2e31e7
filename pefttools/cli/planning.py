"""``pefttools plan``: memory before a run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from pefttools.cli.completing import names_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from pefttools.planning.plan import Planned
    from pefttools.planning.request import PlanRequest

Result = TypeVar("Result")


#: fields of a training run's shape that have their own option
_SHAPE = {
    "batch_size": typer.Option(None, "--batch-size", min=1, help="Rows per optimizer step.  [default: 32]"),
    "length": typer.Option(None, "--length", min=1, help="Tokens per row; for audio, 1/100 s.  [default: 128]"),
    "accumulation": typer.Option(
        None, "--accumulation", min=1, help="Number of microbatches that a batch is split into (gradient accumulation)."
    ),
    "eval_batch_size": typer.Option(
        None, "--eval-batch-size", min=1, help="Batch size for evaluation and serving."
    ),
    "gradient_checkpointing": typer.Option(
        None, "--gradient-checkpointing", help="false, true or selective: recompute activations in the backward pass."
    ),
    "optimizer": typer.Option(None, "--optimizer", help="adamw, adamw_8bit or paged_adamw_8bit."),
    "precision": typer.Option(None, "--precision", help="auto, float32, bfloat16 or float16."),
    "devices": typer.Option(None, "--devices", min=1, help="Number of devices that share a batch.  [default: 1]"),
    "sharded": typer.Option(
        False, "--sharded", help="Shard weights, gradients and optimizer state over the devices (FSDP)."
    ),
}  # fmt: skip
_SOURCE = "Folder (config.json is enough), package: reference or hub id; or a recipe (.yaml)."
_VARIANTS = "Comma-separated number formats of the base.  [default: float32]"
_FIT = "Find the largest batch and length for training, per card or on the given --gpu."


def plan(
    base: str = typer.Argument(help=_SOURCE, metavar="BASE|RECIPE"),
    task: str | None = typer.Option(
        None,
        "--task",
        help="Name of the task.  [default: one label per text]",
        autocompletion=names_of("pefttools.tasks"),
    ),
    methods: str | None = typer.Option(
        None, "--methods", help="Comma-separated names.  [default: LoRA]", autocompletion=names_of("pefttools.methods")
    ),
    variants: str | None = typer.Option(
        None, "--variants", help=_VARIANTS, autocompletion=names_of("pefttools.variants")
    ),
    bases: str | None = typer.Option(None, "--bases", hidden=True),
    batch_size: int | None = _SHAPE["batch_size"],
    length: int | None = _SHAPE["length"],
    accumulation: int | None = _SHAPE["accumulation"],
    eval_batch_size: int | None = _SHAPE["eval_batch_size"],
    gradient_checkpointing: str | None = _SHAPE["gradient_checkpointing"],
    optimizer: str | None = _SHAPE["optimizer"],
    precision: str | None = _SHAPE["precision"],
    devices: int | None = _SHAPE["devices"],
    sharded: bool = _SHAPE["sharded"],
    labels: int = typer.Option(2, "--labels", min=2, help="Number of labels, if the task has labels."),
    gpu: str = typer.Option("cpu", "--gpu", help="Name of a card, gpu for one of unspecified size, or cpu."),
    residents: int | None = typer.Option(None, "--residents", min=1, help="Also plan a pool of this many adapters."),
    fit: bool = typer.Option(False, "--fit", help=_FIT),
    overrides: list[str] = typer.Option([], "--set", help="Override a field of the recipe: field.field=value."),
    as_json: bool = typer.Option(False, "--json", help="Also print one JSON object at the end."),
) -> None:
    """Predict the memory that a training run needs; no weights are loaded.

    Figures are for the CPU's kernels unless --gpu or --fit asks for a GPU's.

    Examples:
        pefttools plan path/to/base --gpu rtx4090 --batch-size 8 --length 512
        pefttools plan recipe.yaml --gpu rtx4090
        pefttools plan path/to/base --fit
    """
    from pefttools.errors import ConfigError
    from pefttools.logs import quiet_libraries
    from pefttools.planning.device import CPU, GPU, find_device
    from pefttools.planning.request import resolve_request

    quiet_libraries()
    if bases is not None:
        print(
            "--bases is called --variants now; the old name will be removed in the next minor version", file=sys.stderr
        )
        variants = variants or bases
    device = find_device(gpu)
    if fit and device is CPU:
        device = GPU  # every known card is considered
    given = {
        "batch_size": batch_size, "length": length, "accumulation": accumulation, "eval_batch_size": eval_batch_size,
        "gradient_checkpointing": gradient_checkpointing, "optimizer": optimizer, "precision": precision,
        "devices": devices, "sharded": sharded,
    }  # fmt: skip
    if overrides and not base.endswith((".yaml", ".yml")):
        raise ConfigError("--set overrides fields of a recipe, but no recipe was given")
    found = _show(
        resolve_request(
            base, task, _names(methods, "--methods"), _names(variants, "--variants"), labels, overrides,
            {name: value for name, value in given.items() if value is not None}, device,
        ),
        residents,
        fit,
    )  # fmt: skip
    if as_json:
        print(json.dumps(found))


def _show(request: PlanRequest, residents: int | None, fit: bool) -> dict[str, Any]:
    """Print the requested tables; returns their figures, for JSON."""
    from rich.console import Console

    from pefttools.cli import plan_tables
    from pefttools.planning.fits import largest_that_fit
    from pefttools.pool.planned import plan_serving

    console, shape = Console(), request.shape
    rows = _each(console, request.planned, lambda one: one.row(shape))
    found: dict[str, Any] = {"rows": [row.as_dict() for _, row in rows]}
    console.print(plan_tables.of_training(request, [row for _, row in rows]))
    possible = [one for one, _ in rows]
    if residents is not None:
        served = [one for _, one in _each(console, possible, lambda one: plan_serving(one, shape, residents))]
        console.print(plan_tables.of_serving(request, served))
        found["serving"] = [one.as_dict() for one in served]
    for planned, row in rows:
        if fit:
            with console.status("tracing a few sizes"):
                largest = largest_that_fit(planned, shape, request.cards)
            console.print(plan_tables.of_largest(request, planned, largest))
            found.setdefault("fit", []).extend(
                {"method": planned.title, "variant": planned.variant, "card": one.card.name,
                 "batch_size": one.batch_size, "length": one.length} for one in largest
            )  # fmt: skip
        elif request.device.memory is not None:
            found.setdefault("verdicts", []).append(plan_tables.print_verdict(console, planned, shape, row))
    return found


def _each(
    console: Console, combinations: Sequence[Planned], work: Callable[[Planned], Result]
) -> list[tuple[Planned, Result]]:
    """The result for each combination; one that can't work is reported and left out, unless it is the only one.

    Raises:
        ConfigError: none can work.
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
        raise ConfigError(f"{option} is empty")
    return names
