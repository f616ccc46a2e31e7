"""The site's sources, as mkdocs finds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# As mkdocs does for a hook: its folder is importable.
sys.path.insert(0, str(DOCS))


@cache
def generated() -> dict[str, str]:
    """Path -> text of the pages that are made from the code."""
    from generate.pages import generated_pages

    return generated_pages()


def navigation() -> list[str]:
    """Pages of the navigation; folders end in a slash."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return list(_leaves(settings["nav"]))


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for one in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _leaves(one)
