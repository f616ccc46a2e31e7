"""The notebooks run from the first to the last cell, and what they show is what they print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .pages import DOCS, generated

NOTEBOOKS = {path.stem: path for path in (DOCS / "notebooks").glob("*.ipynb")}


def _cells(path: Path) -> list[dict[str, Any]]:
    return [one for one in json.loads(path.read_text(encoding="utf-8"))["cells"] if one["cell_type"] == "code"]


def _kinds(outputs: list[dict[str, Any]]) -> list[Any]:
    return [(one["output_type"], one.get("name"), sorted(one.get("data", {}))) for one in outputs]


@pytest.mark.pages
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_prints_what_is_stored(name: str, tmp_path: Path) -> None:
    """Numbers may differ between machines; what kind of output a cell has may not."""
    from generate.execute import executed

    for stored, run in zip(_cells(NOTEBOOKS[name]), _code(executed(NOTEBOOKS[name], tmp_path)), strict=True):
        assert _kinds(run["outputs"]) == _kinds(stored["outputs"]), run["source"]


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_are_of_one_run_and_name_no_machine(name: str) -> None:
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    cells = _cells(NOTEBOOKS[name])
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and all(one["output_type"] != "error" and one.get("name") != "stderr" for one in outputs)
    assert not re.search(r"(?<![\w.~-])/(tmp|home|root|usr|opt|var|work)/|\\u001b", text)
    assert len(text) < 100_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_shows_every_cell_and_its_outputs(name: str) -> None:
    page = generated()[f"notebooks/{name}.md"]
    assert page.startswith("# ") and f"]({name}.ipynb)" in page.split("\n\n")[1]
    for cell in _cells(NOTEBOOKS[name]):
        assert f"```python\n{''.join(cell['source'])}\n```" in page
    kinds = [kind for cell in _cells(NOTEBOOKS[name]) for _, _, kinds in _kinds(cell["outputs"]) for kind in kinds]
    assert page.count("<img ") == kinds.count("image/png") and page.count('<div class="output">') == kinds.count(
        "text/html"
    )
    for target in re.findall(r"\]\((\.\./[^)#]+\.md)", page):
        assert (DOCS / "notebooks" / target).resolve().is_file() or target.removeprefix("../") in generated(), target


def test_what_is_printed_is_one_output_however_it_arrives() -> None:
    from generate.execute import _joined

    def printed(text: str, name: str = "stdout") -> dict[str, str]:
        return {"output_type": "stream", "name": name, "text": text}

    shown = {"output_type": "display_data", "data": {"text/plain": "a"}}
    pieces = [printed("a\n"), printed("b\n"), shown, printed("c\n"), printed("d\n", "stderr"), printed("e\n")]
    assert _joined(pieces) == [printed("a\nb\n"), shown, printed("c\n"), printed("d\n", "stderr"), printed("e\n")]
