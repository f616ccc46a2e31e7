"""``pefttools import``: adapters trained by other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from pefttools.cli.completing import names_of

LABELS = typer.Option(
    None, "--labels", help="Label names in the order of the head's outputs, e.g. no,yes; by default those configured."
)
TASK = typer.Option(
    None,
    "--task",
    help="Name of the task, if the source does not say; see `pefttools tasks`.",
    autocompletion=names_of("pefttools.tasks"),
)
OPTION = typer.Option([], "--set", metavar="OPTION=VALUE", help="Option of the task, e.g. max_length=256.")
VARIANT = typer.Option(
    "float32",
    "--variant",
    help="Number format of the base; see `pefttools variants`.",
    autocompletion=names_of("pefttools.variants"),
)


def import_adapter(
    source: str = typer.Argument(help="PEFT folder, or hub id (ORG/NAME or ORG/NAME@REVISION).", metavar="SOURCE"),
    base: str = typer.Option(..., "--base", help="The base model that it was trained on: folder, package: or hub id."),
    output: Path = typer.Option(..., "--output", help="Folder of the artifact."),
    labels: str | None = LABELS,
    task: str | None = TASK,
    options: list[str] = OPTION,
    variant: str = VARIANT,
    overwrite: bool = typer.Option(False, "--overwrite", help="Overwrite an existing artifact."),
) -> None:
    """Make an artifact from an adapter that another program trained.

    Examples:
        pefttools import peft-folder --base path/to/base --output artifacts/imported
        pefttools import ORG/NAME --base ORG/BASE --labels no,yes --output artifacts/imported
    """
    from pefttools import api

    manifest = api.import_adapter(
        source, base, output,
        labels=label_names(labels), task=task_choice(task, options), variant=variant, overwrite=overwrite,
    )  # fmt: skip
    print(f"{output}: {manifest.method.name} for {manifest.task.name}, on {manifest.base.id}")
    if manifest.imported is not None:
        print(f"imported {manifest.imported.origin()}")


def label_names(given: str | None) -> list[str]:
    """Comma-separated names as a list."""
    return [name.strip() for name in given.split(",")] if given else []


def task_choice(name: str | None, options: list[str]) -> dict[str, Any]:
    """The task's name and options, as far as the user gave them."""
    from pefttools.errors import ConfigError

    choice: dict[str, Any] = {} if name is None else {"name": name}
    for option in options:
        field, sign, value = option.partition("=")
        if not sign or not field:
            raise ConfigError(f"--set {option!r}: write it as option=value")
        choice[field] = value
    return choice
