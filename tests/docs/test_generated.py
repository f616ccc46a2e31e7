"""The pages that are made from the code leave nothing out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

import pefttools
import pefttools.errors
import pefttools.eval
import pefttools.testing
from pefttools.methods import methods
from pefttools.objectives import objectives
from pefttools.registry import Registry
from pefttools.tasks import tasks

from .pages import DOCS, ROOT, generated


@pytest.mark.parametrize("folder", ["methods", "tasks", "objectives"])
def test_everything_registered_has_a_page_with_its_options(folder: str) -> None:
    registries: dict[str, Registry[Any]] = {"methods": methods, "tasks": tasks, "objectives": objectives}
    registry = registries[folder]
    pages = generated()
    for name in registry:
        if registry.origin(name).distribution != "pefttools":
            continue  # of another test
        page = pages[f"{folder}/{name}.md"]
        plugin = registry.get(name)
        if getattr(plugin, "why_not", None):
            assert "It can't be used" in page
            continue
        rows = dict(re.findall(r"^\| \[?`([\w@-]+)`.*?\| (.*) \|$", page, re.M))
        for option, field in plugin.config.model_fields.items():
            assert option in rows, (name, option)
            assert field.description and rows[option].split(" | ")[-1], (name, option)


def test_a_method_page_tells_what_was_observed() -> None:
    findings = json.loads((ROOT / "benchmarks/results/probe/probe.json").read_text(encoding="utf-8"))
    page = generated()["methods/waveft.md"]
    cells = [cell for cell in findings["cells"] if cell["method"] == "waveft"]
    observed = page.partition("## What was observed")[2].partition("### Reasons")[0]
    for family in {cell["family"] for cell in cells}:
        assert re.search(rf"[ ,]{re.escape(family)}[ ,]", observed), family
    failed = [line.split(" | ")[1] for line in observed.splitlines() if line.endswith("| compiled |")]
    assert failed == ["bert", "llama"], "nothing else was compiled"
    (line,) = [line for line in observed.splitlines() if line.startswith("| float32 | deberta-v2 |")]
    assert line.split(" | ")[3] == "mixed", "what was refused"
    assert "InductorError" in page and "TORCHDYNAMO" not in page


def test_a_recipe_is_described_down_to_its_last_field() -> None:
    from pefttools.eval.spec import BenchSpec
    from pefttools.recipe import Recipe

    for path, model in (("reference/recipe.md", Recipe), ("reference/comparison.md", BenchSpec)):
        page = generated()[path]
        assert set(_fields(model)) <= set(re.findall(r"^\| \[?`(\w+)`", page, re.M))
        undescribed = [line for line in page.splitlines() if line.startswith("| ") and line.endswith("|  |")]
        assert not undescribed, undescribed[:3]
    assert "| `epochs` | number, > 0 | `3` |" in generated()["reference/recipe.md"]


def _fields(model: type[BaseModel]) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _fields(field.annotation)
    return names


def test_every_command_is_there_with_its_options() -> None:
    import typer

    from pefttools.cli.main import build_app

    page = generated()["reference/commands.md"]
    parts = dict(re.findall(r"^## pefttools (.*?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    top = typer.main.get_command(build_app())
    leaves: dict[str, Any] = {}
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        leaves |= {f"{name} {one}": inner for one, inner in below.items()} if below else {name: command}
    assert parts.keys() == {name for name, command in leaves.items() if not command.hidden}
    for name, part in parts.items():
        for parameter in leaves[name].params:
            if getattr(parameter, "hidden", False):
                continue
            long = [option for option in parameter.opts if option.startswith("--")]
            assert all(option in part for option in long), (name, long)


def test_every_public_name_is_in_the_api_reference() -> None:
    listed = set(re.findall(r"^::: (\S+)$", "\n".join(generated().values()), re.M))
    for module in (pefttools, pefttools.eval, pefttools.testing):
        names = {f"{module.__name__}.{name}" for name in module.__all__} - {"pefttools.PeftToolsError"}
        assert names <= listed
    family = {
        f"pefttools.errors.{kind.__name__}"
        for kind in vars(pefttools.errors).values()
        if isinstance(kind, type) and issubclass(kind, pefttools.errors.PeftToolsError)
    }
    assert len(family) > 10 and family <= listed


def test_making_the_pages_loads_no_torch() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(DOCS)!r}); from generate.pages import generated_pages; generated_pages();"
        "heavy = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_docstrings_become_markdown() -> None:
    from generate.text import docstring, table

    text = """Title with a * and ``code * here``::

    y = W x      formula * with marks

    name_with_underscores _not emphasis_ https://arxiv.org/abs/1.

    Args:
        hidden: not shown.
    """
    shown = docstring(text)
    assert "Title with a \\* and `code * here`:\n" in shown
    assert "formula * with marks" in shown.partition("```text\n")[2].partition("```")[0]
    assert r"name_with_underscores \_not emphasis\_ <https://arxiv.org/abs/1>." in shown
    assert "hidden" not in shown
    assert table(["a"], [["x|y\nz"]]).splitlines()[-1] == r"| x\|y z |"


def test_names_in_tables_lead_to_their_pages() -> None:
    from generate.pages import with_links

    text = "| [`lora`](https://arxiv.org/abs/2106.09685) | low |\n| `ia3` | x |\n| `nothing` | y |\n"
    linked = with_links("methods.md", text)
    assert linked.splitlines() == [
        "| [`lora`](methods/lora.md) | low |",
        "| [`ia3`](methods/ia3.md) | x |",
        "| `nothing` | y |",
    ]
    assert with_links("pool.md", text) == text
    assert with_links("index.md", "[a](notebooks/pool.ipynb)") == "[a](notebooks/pool.md)"
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert with_links("methods.md", page).count("](methods/lora.md)") == 2, "in both tables"
