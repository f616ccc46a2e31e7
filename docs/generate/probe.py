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
_SIGNS = {"works": "✓", "refused": "no", "fails": "fails", "wrong": "wrong", "not tried": "–"}


@cache
def _findings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FINDINGS.read_text(encoding="utf-8"))
    return found


def observed(method: str) -> str:
    """A section: how each check ended, for each number format and family, and why something was refused or failed."""
    cells = [cell for cell in _findings()["cells"] if cell["method"] == method]
    if not cells:
        return ""
    checks = [name for name in CHECKS if any(_outcome(cell, name)[0] not in ("", "not tried") for cell in cells)]
    rows = [[", ".join(formats), ", ".join(families), *signs] for formats, families, signs in _alike(cells, checks)]
    parts = [
        "## What was observed",
        f"`pefttools probe` on tiny models with random weights, {_versions()}. The [checks](../choosing.md"
        "#what-works-on-your-model) are explained with the command. ✓: works; no: refused with an error that says why; "
        "–: not tried, because it does not apply or an earlier check was refused.",
        table(["format", "models", *checks], rows),
        _reasons(cells),
        "[All findings, with filters](../probe.html).",
    ]
    return "\n\n".join(part for part in parts if part)


def _alike(cells: list[dict[str, Any]], checks: list[str]) -> list[tuple[list[str], tuple[str, ...], tuple[str, ...]]]:
    """Formats, families and outcomes, those that are the same in one row."""
    families: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for cell in cells:
        signs = tuple(_SIGNS.get(_outcome(cell, name)[0], "–") for name in checks)
        families[cell["variant"], signs].append(cell["family"])
    formats: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (variant, signs), found in families.items():
        formats[tuple(found), signs].append(variant)
    rows = [(variants, found, signs) for (found, signs), variants in formats.items()]
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
