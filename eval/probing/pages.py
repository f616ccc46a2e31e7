"""The results of a probe for people: a page with filters, and a table for a document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pefttools.errors import ConfigError
from pefttools.files import write_text_atomic

from .cells import CHECKS, TRAINED, Cell
from .table import ProbeTable, packed

PAGE = "probe.html"
_BEGIN, _END = "<!-- probe: begin -->", "<!-- probe: end -->"
#: checks with a column of their own
_COLUMNS = ("merged", "mixed", "packed", "recomputed", "planned", "exported", "compiled")


def summary(table: ProbeTable) -> str:
    """What was tried, in a sentence or two."""
    counts = table.counts()
    families = len({cell.family for cell in table.cells})
    variants = list(dict.fromkeys(cell.variant for cell in table.cells))
    methods = len({cell.method for cell in table.cells})
    return (
        f"{methods} methods on {families} models in {', '.join(variants)}: of {len(table.cells):,} cells "
        f"{counts['works']:,} work, {counts['refused']:,} are refused with a reason, {counts['fails']:,} fail, and "
        f"{counts['wrong']:,} are silently wrong."
    )


def write_page(table: ProbeTable, path: Path) -> None:
    """One HTML file that needs nothing else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    # Within a script element only "</" and "<!--" have to be escaped.
    data = json.dumps({"cells": [packed(cell) for cell in table.cells]}).replace("<", "\\u003c")
    text = environment.get_template("probe.html").render(
        summary=summary(table),
        variants=list(dict.fromkeys(cell.variant for cell in table.cells)),
        checks=[TRAINED, *CHECKS],
        data=Markup(data),
    )
    write_text_atomic(path, text)


def write_section(table: ProbeTable, path: Path) -> None:
    """Put the table between its two markers in a Markdown file.

    Raises:
        ConfigError: the file has no such markers.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1 or text.index(_BEGIN) > text.index(_END):
        raise ConfigError(f"{path} has no place for the table", hint=f"Put the lines {_BEGIN} and {_END} into it.")
    before, rest = text.split(_BEGIN)
    write_text_atomic(path, f"{before}{_BEGIN}\n{section(table)}\n{_END}{rest.split(_END)[1]}")


def section(table: ProbeTable) -> str:
    """The table in Markdown: on how many models each method works, out of how many."""
    variants = list(dict.fromkeys(cell.variant for cell in table.cells))
    heads = ["method", *variants, *_COLUMNS]
    lines = [summary(table), "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for method in sorted({cell.method for cell in table.cells}):
        own = [cell for cell in table.cells if cell.method == method]
        trained = [_share([cell for cell in own if cell.variant == variant], TRAINED) for variant in variants]
        lines.append(f"| `{method}` | {' | '.join([*trained, *(_share(own, check) for check in _COLUMNS)])} |")
    return "\n".join(lines)


def _share(cells: Sequence[Cell], check: str) -> str:
    """On how many models it works, out of those on which it was tried; empty if it was tried nowhere."""
    found = [cell.checks[check].status for cell in cells if check in cell.checks]
    tried = [status for status in found if status != "not tried"]
    return f"{tried.count('works')}/{len(tried)}" if tried else ""
