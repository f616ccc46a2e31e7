"""``pefttools probe``."""

from __future__ import annotations

from pathlib import Path

import typer

from ..commands import names

_TASK = "Task for your own base.  [default: chosen by what it reads and writes]"


def probe(
    base: str | None = typer.Argument(
        None, help="A model of your own: folder, package: reference or hub id.  [default: tiny models of all families]"
    ),
    methods: str | None = typer.Option(None, "--methods", help="Comma-separated names.  [default: all]"),
    families: str | None = typer.Option(None, "--families", help="Comma-separated names.  [default: all]"),
    variants: str | None = typer.Option(
        None,
        "--variants",
        help="Comma-separated number formats of the base.  [default: all; for your own base: float32]",
    ),
    task: str | None = typer.Option(None, "--task", help=_TASK),
    part: bool = typer.Option(False, "--slice", help="Try each method and each family once; nothing is compiled."),
    compiled: bool = typer.Option(True, help="Try torch.compile on an encoder and a decoder; half a minute for each."),
    reuse_any: bool = typer.Option(
        False,
        "--reuse-any",
        help="Keep cells made by other versions of the code, unless they failed.  [default: repeat them]",
    ),
    jobs: int = typer.Option(1, "--jobs", "-j", min=1, help="Number of processes."),
    output: Path = typer.Option(Path("runs/probe"), "--output", help="Folder of probe.json and probe.html."),
    document: Path | None = typer.Option(None, "--document", help="Markdown file in which the table is updated."),
) -> None:
    """Try each method on each kind of model: train, load, merge, mix, ...; if interrupted, start it again to continue.

    Every result is compared with what it must be. The exit code is 1 if something fails, or differs from what the
    method declares.

    Examples:
        pefttools probe path/to/base
    """
    from rich.console import Console

    from pefttools.progress import default_reporter

    from .declared import contradictions
    from .pages import PAGE, summary, write_page, write_section
    from .run import probe as run
    from .table import FILE
    from .terminal import print_table

    table = run(
        base, methods=names(methods), families=names(families), variants=names(variants), task=task, part=part,
        compiled=compiled, reuse="any" if reuse_any else "same", jobs=jobs, output=output, reporter=default_reporter(),
    )  # fmt: skip
    write_page(table, output / PAGE)
    if document is not None:
        write_section(table, document)
    print_table(table, Console())
    print(summary(table))
    print(f"table      {output / FILE}\npage       {output / PAGE}  (with filters; click a cell to see why)")
    if found := contradictions(table):
        print(f"\n{len(found)} results contradict what the methods declare:")
        print("\n".join(f"- {line}" for line in found))
        raise typer.Exit(1)
