"""``pefttools curve``."""

from __future__ import annotations

from pathlib import Path

import typer


def curve(
    spec: Path = typer.Argument(help="YAML file as for `pefttools bench`."),
    per_class: str = typer.Option("4,8,16,32", "--per-class", help="Labels per class, separated by commas."),
    overrides: list[str] = typer.Option([], "--set", metavar="FIELD=VALUE", help="Override a field."),
    jobs: int = typer.Option(1, "--jobs", "-j", min=1, help="Number of concurrent runs, as far as memory allows."),
) -> None:
    """Compare methods at several numbers of labels per class: how many labels each one saves.

    Examples:
        pefttools curve comparison.yaml --per-class 4,8,16
    """
    from rich.console import Console

    from pefttools.errors import ConfigError
    from pefttools.progress import default_reporter

    from .run import HTML, JSON
    from .run import curve as run
    from .terminal import show

    try:
        sizes = [int(one) for one in per_class.split(",")]
    except ValueError as error:
        raise ConfigError(f"--per-class {per_class}: numbers separated by commas are needed, e.g. 4,8,16") from error
    found = run(spec, sizes, overrides=overrides, jobs=jobs, reporter=default_reporter())
    show(found, Console())
    print(f"html       {found.folder / HTML}")
    print(f"json       {found.folder / JSON}")
