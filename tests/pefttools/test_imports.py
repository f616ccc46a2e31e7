"""Who may import whom, and what stays cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pefttools

ROOT = Path(__file__).parents[2]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("pefttools", ("pefttools.adapters", "pefttools.eval")),
        ("adapters", ("pefttools.eval", "pefttools.cli")),
        ("eval", ("pefttools.adapters", "pefttools.cli")),
    ],
)
def test_rooms_import_only_what_they_may(folder: str, forbidden: tuple[str, ...]) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in _imports(path):
            assert not name.startswith(forbidden), f"{path.relative_to(ROOT)} imports {name}"


#: also words of the field: a role, a delta kind, a part of a model, a kind of problem
ORDINARY_WORDS = {"arrow", "full", "head", "prompt", "prefix", "bottleneck", "regression"}


def _strings(path: Path) -> set[str]:
    """Words of all texts in a file but its docstrings; names with hyphens are one word."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return {word for text in texts if isinstance(text, str) for word in re.findall(r"[\w-]+", text)}


def test_the_core_names_no_method_and_no_task() -> None:
    """Which one is meant where none is named stands with the entry points, in pyproject.toml."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    names = {*points["pefttools.methods"], *points["pefttools.tasks"]} - ORDINARY_WORDS
    assert {"lora", "ia3", "causal-lm", "sequence-classification"} <= names
    classes = {
        point.rpartition(":")[2] for kind in ("methods", "tasks") for point in points[f"pefttools.{kind}"].values()
    }
    for path in (ROOT / "pefttools").rglob("*.py"):
        if "tasks" in path.relative_to(ROOT / "pefttools").parts[:-1]:
            continue
        found = _strings(path) & names
        assert not found, f"{path.relative_to(ROOT)} says {', '.join(sorted(found))}"
        used = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
        assert not used & classes, f"{path.relative_to(ROOT)} uses {', '.join(sorted(used & classes))}"


def test_every_room_is_in_the_package_that_is_built() -> None:
    """An installation from the working folder has all of them; a wheel only those that are listed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = set()
    for folder, name in (("pefttools", "pefttools"), ("adapters", "pefttools.adapters"), ("eval", "pefttools.eval")):
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(settings["packages"]) == sorted(found)


@pytest.mark.parametrize(
    "program",
    [
        "import pefttools",
        "import sys; sys.argv = ['pefttools', '--help']; from pefttools.cli.main import build_app; build_app()",
        "from pefttools.methods import methods; [methods.get(name) for name in methods]",
        "from pefttools.tasks import tasks; [tasks.get(name) for name in tasks]",
        "from pefttools.bases import variants; [variants.get(name) for name in variants]",
    ],
)
def test_no_torch_for_help_and_listing(program: str) -> None:
    check = (
        "import sys; heavy = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", f"{program}\n{check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


#: rooms that a prediction does not need, and libraries that take long
NOT_FOR_PREDICTION = {"pefttools.planning", "pefttools.pool", "pefttools.server", "pefttools.training"}
NOT_FOR_PREDICTION |= {"datasets", "evaluate", "pandas", "plotly", "pyarrow", "sklearn"}


def _imported(program: str) -> set[str]:
    check = f"{program}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_functions_load_no_room_before_it_is_used() -> None:
    found = _imported("import pefttools; pefttools.predict, pefttools.plan, pefttools.train")
    assert "torch" in found and not found & (NOT_FOR_PREDICTION | {"transformers", "peft", "torch._dynamo"})


@pytest.mark.slow
def test_a_prediction_loads_only_what_it_needs(tmp_path: Path, tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, labels=["no", "yes"])
    artifact = str(tmp_path / "artifact")
    pefttools.save(model, artifact)
    found = _imported(f"import pefttools; pefttools.predict({artifact!r}, ['a text'])")
    assert "peft" in found and not found & NOT_FOR_PREDICTION


def test_functions_are_not_hidden_by_modules_of_their_names() -> None:
    program = """
import importlib, pkgutil, pefttools, pefttools.eval
for package in (pefttools, pefttools.eval):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for name in package.__all__:
        assert callable(getattr(package, name)), (package, name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_others_are_quiet_and_our_own_warnings_are_not() -> None:
    program = (
        "import warnings; from pefttools.logs import quiet_libraries; quiet_libraries();"
        "[warnings.warn_explicit(f'of {name}', UserWarning, 'f', 1, name)"
        " for name in ('peft.tuners', 'pefttools.bases')]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "of pefttools.bases" in done.stderr and "of peft.tuners" not in done.stderr
