"""``pefttools bench`` and ``pefttools report``."""

from __future__ import annotations

from pathlib import Path

import typer


def bench(
    spec: Path = typer.Argument(help="YAML file: methods, base, data."),
    overrides: list[str] = typer.Option([], "--set", metavar="FIELD=VALUE", help="Override a field."),
    jobs: int = typer.Option(1, "--jobs", "-j", min=1, help="Number of concurrent runs, as far as memory allows."),
    share_cards: bool = typer.Option(False, "--share-cards", help="Allow more jobs than GPUs; their times are marked."),
) -> None:
    """Compare methods; if interrupted and started again, it continues where it stopped.

    Examples:
        pefttools bench comparison.yaml
        pefttools bench comparison.yaml --jobs 2 --set seeds=[1,2,3]
    """
    from .spec import load_spec

    settings = load_spec(spec, overrides)

    from rich.console import Console

    from pefttools.progress import default_reporter

    from .comparison import bench as run
    from .reporting import load_report, print_table

    outcome = run(settings, jobs=jobs, share_cards=share_cards, reporter=default_reporter())
    print_table(load_report(outcome.folder), Console())
    _show_files(outcome.report)
    print(f"runs       {outcome.folder / 'runs'}  (per run: record.json, predictions.jsonl, log.txt, artifact/)")


#: the file's model, for `pefttools schema bench`
bench.reads = "pefttools.eval.spec:BenchSpec"  # type: ignore[attr-defined]


def report(
    runs: Path = typer.Argument(help="Output folder of a `pefttools bench`.", metavar="RUNS_DIR"),
    output: Path | None = typer.Option(None, "--output", help="Folder of the report; default: RUNS_DIR/report."),
) -> None:
    """Rewrite the report of a comparison: HTML, Markdown, CSV, JSON.

    Examples:
        pefttools report runs/intents
    """
    from rich.console import Console

    from .reporting import load_report, print_table, write_report

    files = write_report(runs, output)
    print_table(load_report(runs), Console())
    _show_files(files)


def _show_files(files: dict[str, Path]) -> None:
    for name, path in files.items():
        print(f"{name:10} {path}")


def names(text: str | None) -> list[str] | None:
    """Comma-separated names of an option; None if it was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
