"""``pefttools plan``: memory before a run."""

from __future__ import annotations

import json

import typer


def plan(
    base: str = typer.Argument(help="Folder (config.json will do), package: reference or hub id.", metavar="BASE"),
    task: str = typer.Option("sequence-classification", "--task", help="Name of the task."),
    methods: str = typer.Option("lora", "--methods", help="Names of methods, with commas between."),
    bases: str = typer.Option("float32", "--bases", help="Base variants, with commas between."),
    batch_size: int = typer.Option(32, "--batch-size", min=1, help="Rows of one optimizer step."),
    length: int = typer.Option(128, "--length", min=1, help="Tokens of each row."),
    accumulation: int = typer.Option(1, "--accumulation", min=1, help="Parts that a batch is computed in."),
    eval_batch_size: int = typer.Option(64, "--eval-batch-size", min=1, help="Rows of one batch at evaluation."),
    labels: int = typer.Option(2, "--labels", min=2, help="Number of labels, where the task has labels."),
    precision: str = typer.Option("auto", "--precision", help="auto, float32 or bfloat16."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object last."),
) -> None:
    """Predict the memory of a training on this machine's CPU kernels; no weights are loaded."""
    from rich.console import Console
    from rich.table import Table

    from pefttools.logs import quiet_libraries
    from pefttools.planning.plan import Shape
    from pefttools.planning.plan import plan as predicted

    quiet_libraries()
    shape = Shape(batch_size, length, accumulation, eval_batch_size, precision)
    rows = predicted(base, task=task, methods=_names(methods), bases=_names(bases), labels=labels, shape=shape)
    table = Table(title=f"{base}: {batch_size} rows of {length} tokens, with the CPU's kernels", title_justify="left")
    heads = (
        "method",
        "base",
        "trained",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "peak",
        "evaluation",
        "at",
    )
    for head in heads:
        table.add_column(head, justify="left" if head in ("method", "base", "at") else "right")
    for row in rows:
        sizes = (row.weights_bytes, row.gradients_bytes, row.optimizer_bytes, row.activations_bytes, row.peak_bytes,
                 row.evaluation_bytes)  # fmt: skip
        table.add_row(
            row.method, row.base, f"{row.trainable_parameters:,}", *(_size(size) for size in sizes), row.peak_at
        )
    Console().print(table)
    if as_json:
        print(json.dumps({"rows": [row.as_dict() for row in rows]}))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.2f} GiB"
