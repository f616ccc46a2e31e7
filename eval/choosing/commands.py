"""``pefttools choose``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from ..commands import names


def choose(
    base: str = typer.Argument(help="Folder (config.json will do), package: reference or hub id."),
    task: str | None = typer.Option(None, "--task", help="Name of the task.  [default: one label per text]"),
    gpu: str = typer.Option("gpu", "--gpu", help="Name of a GPU, or gpu for one of no particular size."),
    rows: int | None = typer.Option(None, "--rows", min=1, help="Number of your training rows."),
    labels: int = typer.Option(2, "--labels", min=2, help="Number of labels, if the task has labels."),
    methods: str | None = typer.Option(None, "--methods", help="Comma-separated names.  [default: all]"),
    variants: str | None = typer.Option(
        None,
        "--variants",
        help="Comma-separated number formats, in order of preference.  [default: the largest that fits]",
    ),
    comparisons: list[Path] = typer.Option(
        [],
        "--comparison",
        help="Output folder of a `pefttools bench`, in addition to those that come with the package.",
    ),
    batch_size: int = typer.Option(32, "--batch-size", min=1, help="Rows per optimizer step."),
    length: int | None = typer.Option(None, "--length", min=1, help="Tokens per row.  [default: the task's maximum]"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Which method to start with: what fits on the GPU, ranked by what stored comparisons have shown.

    Nothing is guessed: each score comes with its comparison and its uncertainty, and untried methods are marked.

    Examples:
        pefttools choose path/to/base --gpu rtx4090 --rows 2000 --labels 4
    """
    from rich.console import Console

    from pefttools.progress import default_reporter

    from .choice import choose as advise
    from .terminal import print_advice

    shape = {"batch_size": batch_size, "eval_batch_size": batch_size} | ({} if length is None else {"length": length})
    advice = advise(
        base, task=task, gpu=gpu, rows=rows, labels=labels, methods=names(methods), variants=names(variants),
        comparisons=comparisons, reporter=default_reporter(), **shape,
    )  # fmt: skip
    if as_json:
        print(
            json.dumps({**asdict(advice), "first": None if advice.first is None else advice.first.label}, default=dict)
        )
        return
    print_advice(advice, Console())
