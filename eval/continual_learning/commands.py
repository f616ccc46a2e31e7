"""``pefttools continual``."""

from __future__ import annotations

from pathlib import Path

import typer


def continual(
    spec: Path = typer.Argument(help="YAML file: stages, orders and strategies."),
    overrides: list[str] = typer.Option([], "--set", metavar="FIELD=VALUE", help="Override a field."),
    jobs: int = typer.Option(1, "--jobs", "-j", min=1, help="Number of concurrent trainings."),
) -> None:
    """Learn stages one after the other, and measure what is forgotten, by several strategies.

    Examples:
        pefttools continual stages.yaml
    """
    from rich.console import Console

    from pefttools.progress import default_reporter

    from .report import HTML, JSON
    from .run import continual as run
    from .terminal import show

    found = run(spec, overrides=overrides, jobs=jobs, reporter=default_reporter())
    show(found, Console())
    print(f"html       {found.folder / HTML}")
    print(f"json       {found.folder / JSON}")
