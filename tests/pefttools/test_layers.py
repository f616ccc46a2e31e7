"""The rooms of the core stand on each other in one order, and no two modules import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"pefttools": "pefttools", "adapters": "pefttools.adapters", "eval": "pefttools.eval"}
#: from the lowest to the highest; a module imports from its own room and from those below
LAYERS = [
    ["errors", "system"],
    ["registry", "files", "logs", "progress", "compute", "sites", "metrics"],
    ["installation"],
    ["packages"],
    ["bases", "data"],
    ["deltas"],
    ["methods"],
    ["heads"],
    ["tasks"],
    ["objectives"],
    ["recipe"],
    ["tuned"],
    ["building"],
    ["outline", "predicting", "robustness"],
    ["artifact"],
    ["planning", "importers", "store", "knowledge"],
    ["training"],
    ["pool"],
    ["server"],
    ["api"],
    ["testing", "cli"],
]
RANKS = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(name: str, *, for_types: bool) -> Iterator[str]:
    """Modules of ours that a module imports, inside of functions too."""
    path = MODULES[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if id(node) in typing and not for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_import_runs_up_again() -> None:
    """Not even one inside of a function, or for types alone."""
    core = [
        name for name in MODULES if name.startswith("pefttools.") and MODULES[name].is_relative_to(ROOT / "pefttools")
    ]
    assert {name.split(".")[1] for name in core} == {*RANKS}, "a room without a place"
    for name in core:
        room = name.split(".")[1]
        for imported in _imports(name, for_types=True):
            parts = imported.split(".")
            if parts[0] != "pefttools" or len(parts) == 1:
                continue
            assert parts[1] == room or RANKS[parts[1]] < RANKS[room], (
                f"{name} imports {imported}, which is not below it"
            )


def test_no_modules_import_each_other() -> None:
    graph = {
        name: {one for one in _imports(name, for_types=False) if one in MODULES and one not in (name, "pefttools")}
        for name in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from error
