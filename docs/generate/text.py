"""Docstrings and values as Markdown."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

#: sections of a docstring that concern callers; the API reference has them
_SECTIONS = re.compile(r"\n\s*(Args|Attributes|Returns|Raises|Example|Examples):\n.*", re.S)
#: what stays as it is: code in one or two backticks, and addresses
_VERBATIM = re.compile(r"(``.+?``|`[^`]+`|https?://[^\s,;)]+)", re.S)

#: what would be markup; an underscore inside a word is none
_MARKS = re.compile(r"[*<\[\]\\]|(?<!\w)_|_(?!\w)")


def docstring(text: str | None) -> str:
    """A docstring as Markdown: formulas and aligned lines become blocks of code."""
    if not text:
        return ""
    text = _SECTIONS.sub("", "\n" + _dedented(text) + "\n").strip("\n")
    return "\n\n".join(_paragraph(one) for one in re.split(r"\n\s*\n", text) if one.strip())


def _dedented(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{first.strip()}\n{textwrap.dedent(rest)}"


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if lines[0].strip() == "References:":
        return "Reference: " + prose(" ".join(line.strip() for line in lines[1:]))
    if all(line.startswith("    ") or re.search(r"\S {3,}\S", line) for line in lines):
        return "```text\n" + textwrap.dedent(text) + "\n```"
    return prose(" ".join(line.strip() for line in lines).replace("::", ":"))


def prose(text: str) -> str:
    """Plain text in which nothing but code in backticks and addresses is marked up."""
    parts = _VERBATIM.split(text)
    for index, part in enumerate(parts):
        if index % 2 == 0:
            parts[index] = _MARKS.sub(r"\\\g<0>", part)
        elif part.startswith("http"):
            parts[index] = f"<{part.rstrip('.')}>" + "." * part.endswith(".")
        else:
            parts[index] = "`" + part.strip("`") + "`"
    return "".join(parts)


def code(value: Any) -> str:
    """A value in backticks, as it is written in YAML."""
    if value is None:
        return "none"
    text = str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
    return f"`{text}`" if text else "empty"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would end a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def page(title: str, *parts: str) -> str:
    """A page; empty parts are left out."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"
