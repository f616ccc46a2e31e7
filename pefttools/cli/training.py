"""``pefttools train``."""

from __future__ import annotations

from pathlib import Path

import typer

OVERRIDES = typer.Option([], "--set", metavar="FIELD=VALUE", help="Override a field, e.g. training.learning_rate=1e-3.")


def train(
    recipe: Path = typer.Argument(help="YAML file; see `pefttools schema`."),
    overrides: list[str] = OVERRIDES,
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint of an interrupted run."),
) -> None:
    """Train one method and save its artifact."""
    from pefttools.recipe import load_recipe

    settings = load_recipe(recipe, overrides)

    from pefttools.api import train as run
    from pefttools.progress import SilentReporter, default_reporter
    from pefttools.training.processes import is_main_process

    reporter = default_reporter() if is_main_process() else SilentReporter()
    stored = run(settings, resume=resume, reporter=reporter)
    if stored is None:
        return
    metric = stored.model.spec.task.primary_metric
    parts = [f"validation {metric} {stored.validation.metrics[metric]:.4f}"]
    if stored.test is not None:
        parts.append(f"test {metric} {stored.test.metrics[metric]:.4f}")
    size = sum(entry.size for name, entry in stored.manifest.files.items() if name.endswith(".safetensors"))
    parts.append(f"{size / 1e6:.2f} MB of weights ({stored.manifest.storage})")
    reporter.event("; ".join(parts))
    print(settings.output)
