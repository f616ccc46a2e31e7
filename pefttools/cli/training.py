"""``pefttools train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pefttools.recipe import Recipe
    from pefttools.training.store import Stored

OVERRIDES = typer.Option([], "--set", metavar="FIELD=VALUE", help="Override a field, e.g. training.learning_rate=1e-3.")
#: exit code of an interrupted program: 128 plus the number of the signal
INTERRUPTED = 130


def train(
    recipe: Path = typer.Argument(help="YAML file; see `pefttools schema`."),
    overrides: list[str] = OVERRIDES,
    resume: bool = typer.Option(False, "--resume", help="Continue from the last checkpoint of an interrupted run."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Overwrite the recipe's existing output."),
) -> None:
    """Train one method and save its artifact.

    Examples:
        pefttools train recipe.yaml
        pefttools train recipe.yaml --set training.epochs=2 --set output=artifacts/short
        pefttools train recipe.yaml --resume
    """
    from pefttools.recipe import load_recipe

    settings = load_recipe(recipe, overrides)
    try:
        _train(settings, resume, overwrite)
    except KeyboardInterrupt:
        print(_interrupted(settings, overwrite), file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _train(settings: Recipe, resume: bool, overwrite: bool) -> None:
    from pefttools.api import train as run
    from pefttools.compute.processes import is_main_process
    from pefttools.progress import SilentReporter, default_reporter

    reporter = default_reporter() if is_main_process() else SilentReporter()
    stored = run(settings, resume=resume, overwrite=overwrite, reporter=reporter)
    if stored is None:
        return
    reporter.event(_summary(stored))
    print(settings.output)


def _summary(stored: Stored) -> str:
    metric = stored.manifest.training["selection"]["metric"]
    parts = [f"validation {metric} {stored.validation.metrics[metric]:.4f}"]
    if stored.test is not None:
        parts.append(f"test {metric} {stored.test.metrics[metric]:.4f}")
    size = sum(entry.size for name, entry in stored.manifest.files.items() if name.endswith(".safetensors"))
    parts.append(f"{size / 1e6:.2f} MB of weights ({stored.manifest.storage})")
    if stored.manifest.training["did_not_learn"]:
        parts.append(f"DID NOT LEARN: {stored.manifest.training['did_not_learn']}")
    return "; ".join(parts)


def _interrupted(settings: Recipe, overwrite: bool) -> str:
    from pefttools.training.checkpoints import any_checkpoint
    from pefttools.training.resume import work_folder

    checkpoint = any_checkpoint(work_folder(settings.output))
    if checkpoint is None:
        return "Interrupted before the first checkpoint: nothing was kept."
    how = "--resume in place of --overwrite" if overwrite else "--resume"
    return f"Interrupted. The same command with {how} continues from {checkpoint}."
