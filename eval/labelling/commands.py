"""``pefttools label``."""

from __future__ import annotations

from pathlib import Path

import typer


def label(
    spec: Path = typer.Argument(help="YAML file: base, method, rows, labels and how the next rows are chosen."),
    simulation: bool = typer.Option(
        False, "--simulate", help="The rows have labels: compare the strategies of the spec, and ask nobody."
    ),
    overrides: list[str] = typer.Option([], "--set", metavar="FIELD=VALUE", help="Override a field."),
) -> None:
    """Label the rows that a model learns the most from, a few at a time.

    Examples:
        pefttools label labelling.yaml
    """
    from rich.console import Console

    if not simulation:
        from .person import label as ask

        print(f"labels     {ask(spec, overrides=overrides, console=Console())}")
        return
    from pefttools.progress import default_reporter

    from .report import HTML, JSON
    from .simulate import simulate
    from .terminal import show

    found = simulate(spec, overrides=overrides, reporter=default_reporter())
    show(found, Console())
    print(f"html       {found.folder / HTML}")
    print(f"json       {found.folder / JSON}")
