"""``pefttools import``: adapters that other programs trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

LABELS = typer.Option(
    None, "--labels", help="Label names in the order of the head's outputs, e.g. no,yes; else from the configuration."
)
TASK = typer.Option(None, "--task", help="Name of the task, where the source does not say; see `pefttools tasks`.")
MAX_LENGTH = typer.Option(None, "--max-length", min=8, help="Longest input in tokens, if not all that the base takes.")
VARIANT = typer.Option("float32", "--variant", help="Number format of the base; see `pefttools bases`.")


def import_adapter(
    source: str = typer.Argument(help="PEFT folder, or hub id (ORG/NAME or ORG/NAME@REVISION).", metavar="SOURCE"),
    base: str = typer.Option(..., "--base", help="The base model that it was trained on: folder, package: or hub id."),
    output: Path = typer.Option(..., "--output", help="Folder of the artifact."),
    labels: str | None = LABELS,
    task: str | None = TASK,
    max_length: int | None = MAX_LENGTH,
    variant: str = VARIANT,
) -> None:
    """Make an artifact of an adapter that another program trained."""
    from pefttools import api

    manifest = api.import_adapter(
        source, base, output, labels=label_names(labels), task=task_choice(task, max_length), variant=variant
    )
    print(f"{output}: {manifest.method.name} for {manifest.task.name}, on {manifest.base.id}")
    if manifest.imported is not None:
        print(f"imported {manifest.imported.origin()}")


def label_names(given: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in given.split(",")] if given else []


def task_choice(name: str | None, max_length: int | None) -> dict[str, Any]:
    """What a user said of the task."""
    said = {"name": name, "max_length": max_length}
    return {key: value for key, value in said.items() if value is not None}
