"""The reference of the Python interface; mkdocstrings fills it in from the sources, without importing them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

import pefttools
import pefttools.errors
import pefttools.eval
from pefttools.errors import PeftToolsError

from .text import page


def names() -> dict[str, list[str]]:
    """Path of a page -> the names on it."""
    return {
        "reference/api.md": [f"pefttools.{name}" for name in pefttools.__all__ if name != "PeftToolsError"],
        "reference/eval.md": [f"pefttools.eval.{name}" for name in pefttools.eval.__all__],
        "reference/testing.md": [f"pefttools.testing.{name}" for name in _declared("pefttools.testing")],
        "reference/errors.md": [f"pefttools.errors.{kind.__name__}" for _, kind in _tree(PeftToolsError)],
    }


def _declared(module: str) -> list[str]:
    """`__all__` as it stands in the source; importing pefttools.testing would import torch."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found: list[str] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{module} has no __all__")


_TITLES = {
    "reference/api.md": "pefttools",
    "reference/eval.md": "pefttools.eval",
    "reference/testing.md": "pefttools.testing",
    "reference/errors.md": "Errors",
}


def api_pages() -> dict[str, str]:
    """Path -> page."""
    pages = {}
    for path, found in names().items():
        lead = _errors() if path == "reference/errors.md" else ""
        pages[path] = page(_TITLES[path], lead, *(f"::: {name}" for name in found))
    return pages


def _errors() -> str:
    lines = [f"{'    ' * depth}{kind.__name__}  (exit code {kind.exit_code})" for depth, kind in _tree(PeftToolsError)]
    tree = "\n".join(lines)
    return (
        "Whatever pefttools raises on purpose derives from `PeftToolsError`, which is also `pefttools.PeftToolsError`. "
        "`message` says what is wrong and where, `hint` what to do about it. See also "
        f"[troubleshooting](../troubleshooting.md).\n\n```text\n{tree}\n```"
    )


def _tree(kind: type[PeftToolsError], depth: int = 0) -> Iterator[tuple[int, type[PeftToolsError]]]:
    """The family of exceptions in `pefttools.errors`, each before those that derive from it."""
    yield depth, kind
    home = dict(inspect.getmembers(pefttools.errors, inspect.isclass))
    for child in kind.__subclasses__():
        if home.get(child.__name__) is child:
            yield from _tree(child, depth + 1)
