"""What `pefttools probe` has seen of each method, from its kept findings."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from .text import prose, table

FINDINGS = Path(__file__).parents[2] / "benchmarks" / "results" / "probe" / "probe.json"
#: in the order of the page on choosing a method, which explains them
CHECKS = (
    "trained",
    "loaded",
    "merged",
    "mixed",
    "written",
    "dequantized",
    "recomputed",
    "packed",
    "planned",
    "exported",
    "compiled",
)
#: how a check ends, besides that it was not tried
_OUTCOMES = ("works", "refused", "fails", "wrong")


@cache
def _findings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FINDINGS.read_text(encoding="utf-8"))
    return found


def observed(method: str) -> str:
    """A section: how each check ended, for each number format and family, and why something was refused or failed."""
    cells = [cell for cell in _findings()["cells"] if cell["method"] == method]
    if not cells:
        return ""
    ends = [word for word in _OUTCOMES if any(_checks(cell, word) for cell in cells)]
    rows = [
        [", ".join(formats), ", ".join(families), *(", ".join(_checks(cell, word)) or "–" for word in ends)]
        for formats, families, cell in _alike(cells)
    ]
    parts = [
        "## What was observed",
        f"`pefttools probe` on tiny models with random weights, {_versions()}. The [checks](../choosing.md"
        "#what-works-on-your-model) are explained with the command. *Refused*: with an error that says why, below. A "
        "check that is not named was not tried: it does not apply, or an earlier one was refused.",
        table(["format", "models", *ends], rows),
        _reasons(cells),
        "[All findings, with filters](../probe.html).",
    ]
    return "\n\n".join(part for part in parts if part)


def _checks(cell: dict[str, Any], word: str) -> list[str]:
    """Checks that ended in this way."""
    return [name for name in CHECKS if _outcome(cell, name)[0] == word]


def _alike(cells: list[dict[str, Any]]) -> list[tuple[list[str], tuple[str, ...], dict[str, Any]]]:
    """Formats and families with the same outcomes, and a cell that shows them."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        families[cell["variant"], str([_checks(cell, word) for word in _OUTCOMES])].append(cell)
    formats: dict[tuple[tuple[str, ...], str], list[dict[str, Any]]] = defaultdict(list)
    for (_, ends), found in families.items():
        formats[tuple(cell["family"] for cell in found), ends].append(found[0])
    rows = [([cell["variant"] for cell in found], names, found[0]) for (names, _), found in formats.items()]
    return sorted(rows, key=lambda row: ("float32" not in row[0], -len(row[1])))


def _versions() -> str:
    versions = _findings()["versions"]
    return "with " + ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft"))


def _outcome(cell: dict[str, Any], check: str) -> tuple[str, str]:
    word, _, reason = cell["checks"].get(check, "").partition(": ")
    return word, reason


def _reasons(cells: list[dict[str, Any]]) -> str:
    """Each reason once, with the check, and the models and formats that it was given for."""
    where: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        for check in CHECKS:
            word, reason = _outcome(cell, check)
            if word in ("refused", "fails", "wrong"):
                where[check, word, _shortened(reason)][cell["family"]].append(cell["variant"])
    if not where:
        return ""
    rows = [
        [check, word, ", ".join(places), ", ".join(sorted({one for ones in places.values() for one in ones})), text]
        for (check, word, text), places in where.items()
    ]
    rows = [[*row[:-1], prose(row[-1])] for row in rows]
    return "### Reasons\n\n" + table(["check", "outcome", "models", "formats", "reason"], rows)


def _shortened(reason: str) -> str:
    """In one line, and without torch's advice on how to get more of a trace."""
    return ". ".join(line.rstrip(".") for line in reason.split(" Set TORCHDYNAMO_VERBOSE")[0].splitlines())
