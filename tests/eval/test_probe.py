"""The probe: it sees what is wrong, keeps what it saw, and says where a method is not as it declares itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pefttools.adapters.lora import Lora
from pefttools.bases import variants
from pefttools.cli.main import build_app
from pefttools.errors import ConfigError, PeftToolsError, UnknownNameError
from pefttools.eval import probe
from pefttools.eval.probing import run as running
from pefttools.eval.probing.cells import CHECKS, COMPILED, TRAINED, Cell, Observation, _observed
from pefttools.eval.probing.declared import contradictions
from pefttools.eval.probing.families import FAMILIES
from pefttools.eval.probing.grid import choices, full_grid, slice_of
from pefttools.eval.probing.pages import section, write_page, write_section
from pefttools.eval.probing.table import FILE, ProbeTable
from pefttools.methods import Method, methods
from tests.methods import AVAILABLE, UNAVAILABLE


class ForgetsHalf(Lora):
    """A LoRA that loads with half of its effect, says that it can't be merged, and is."""

    name = "forgets-half"
    capabilities = replace(Lora.capabilities, effect="modules")

    def load(self, model: nn.Module, folder: Path, config: Any, target: Any) -> nn.Module:
        found = super().load(model, folder, config, target)
        with torch.no_grad():
            for key, parameter in found.named_parameters():
                if ".lora_B." in key:
                    parameter.mul_(0.5)
        return found


class Here:
    """Answers in this process, where a plugin of a test is known."""

    def __init__(self) -> None:
        from pefttools.testing.subject import answers_of

        self.answers = answers_of

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Method[Any]]]:
    monkeypatch.setattr(running, "Elsewhere", Here)
    monkeypatch.setattr(running, "_loaders", [])
    methods.register(ForgetsHalf.name)(ForgetsHalf)
    yield ForgetsHalf
    methods.unregister(ForgetsHalf.name)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeTable]:
    folder = tmp_path_factory.mktemp("probe")
    table = probe(
        methods=["lora", "bottleneck", "xlora"], families=["bert", "mamba"], variants=["float32"], compiled=False,
        output=folder,
    )  # fmt: skip
    return folder, table


def test_what_works_and_what_is_refused_by_name(seen: tuple[Path, ProbeTable]) -> None:
    _, table = seen
    cells = {(cell.method, cell.family): cell for cell in table.cells}
    assert set(cells) == {(method, family) for method in ("lora", "bottleneck") for family in ("bert", "mamba")}
    lora = cells["lora", "bert"].checks
    assert {name for name, one in lora.items() if one.status == "works"} == {
        TRAINED, "loaded", "merged", "mixed", "recomputed", "planned", "exported",
    }  # fmt: skip
    assert cells["bottleneck", "bert"].checks["merged"].status == "refused"
    assert "can't be merged" in cells["bottleneck", "bert"].checks["merged"].why
    refused = cells["bottleneck", "mamba"]
    assert refused.status == "refused" and set(refused.checks) == {TRAINED}
    assert "blocks are not known" in refused.checks[TRAINED].why
    assert "xlora" in table.unable and not contradictions(table)


def test_a_second_run_tries_nothing_again(seen: tuple[Path, ProbeTable], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, table = seen
    monkeypatch.setattr(running, "observe", lambda *_, **__: pytest.fail("tried again"))
    again = probe(
        methods=["lora", "bottleneck"], families=["bert", "mamba"], variants=["float32"], compiled=False, output=folder
    )
    assert [cell.checks for cell in again.cells] == [cell.checks for cell in table.cells]
    assert ProbeTable.read(folder / FILE) == again


@pytest.mark.slow  # CI's slice runs several processes too
def test_several_processes_end(tmp_path: Path) -> None:
    """Each has one of its own beside it, which must not outlive it."""
    program = f"""
from pefttools.eval import probe
if __name__ == "__main__":
    found = probe(methods=["head"], families=["bert", "llama", "vit"], variants=["float32"], compiled=False, jobs=2,
                  output={str(tmp_path)!r})
    print(len(found.cells))
"""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.split() == ["3"]


@pytest.mark.slow
def test_other_code_is_tried_anew(seen: tuple[Path, ProbeTable], tmp_path: Path) -> None:
    _, table = seen
    replace(table, versions={**table.versions, "code": "other"}).write(tmp_path / FILE)
    found = probe(methods=["head"], families=["bert"], variants=["float32"], compiled=False, output=tmp_path)
    assert [cell.method for cell in found.cells] == ["head"]
    replace(found, versions={**table.versions, "code": "other"}, cells=table.cells).write(tmp_path / FILE)
    given: dict[str, Any] = {"families": ["bert"], "variants": ["float32"], "compiled": False, "output": tmp_path}
    kept = probe(methods=["head"], reuse="any", **given)
    assert len(kept.cells) == len(table.cells) + 1


def test_a_method_that_is_wrong_without_a_word_is_found_out(broken: type[Method[Any]], tmp_path: Path) -> None:
    table = probe(methods=[broken.name], families=["bert"], variants=["float32"], compiled=False, output=tmp_path)
    (cell,) = table.cells
    assert cell.status == "wrong" and "a loaded artifact is off by" in cell.checks["loaded"].why
    assert cell.checks["mixed"].status == "works"  # by what is stored, which is whole
    assert any("loaded: wrong" in line for line in contradictions(table))


def test_the_command_says_so_by_its_exit_code(broken: type[Method[Any]], tmp_path: Path) -> None:
    given = ["probe", "--methods", broken.name, "--families", "bert", "--variants", "float32", "--no-compiled"]
    done = CliRunner().invoke(build_app(), [*given, "--output", str(tmp_path)])
    assert done.exit_code == 1 and "contradict what the methods declare" in done.stdout
    assert (tmp_path / "probe.html").is_file()


@pytest.mark.slow
def test_ones_own_model(tiny_llama: str, tmp_path: Path) -> None:
    table = probe(tiny_llama, methods=["ia3"], compiled=False, output=tmp_path)
    (cell,) = table.cells
    assert (cell.family, cell.variant, cell.status) == (f"{tiny_llama} (causal-lm)", "float32", "works")
    assert cell.checks["packed"].status == "works" and cell.checks["written"].status == "works"


def test_a_task_without_rows_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows can be made here for the task 'token-classification'"):
        probe(tiny_bert, methods=["lora"], task="token-classification", compiled=False, output=tmp_path)


@pytest.mark.slow
def test_options_and_tasks_make_other_cells(tiny_llama: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"compiled": False, "output": tmp_path}
    methods: list[Any] = [{"name": "lora", "r": 2}, {"name": "lora", "start": "pissa"}]
    first = probe(tiny_llama, methods=methods, **given)
    assert [cell.method for cell in first.cells] == ['lora {"r": 2}', 'lora {"start": "pissa"}']
    second = probe(tiny_llama, methods=methods[:1], task={"name": "sequence-classification", "head": "mean"}, **given)
    assert len(second.cells) == 3


def test_what_can_not_be_probed_leaves_the_table_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("kept")
    with pytest.raises(PeftToolsError):
        probe("./no-such-base", output=tmp_path)
    assert (tmp_path / FILE).read_text() == "kept"


def test_an_error_after_the_wrapping_is_no_refusal() -> None:
    def check() -> None:
        raise ConfigError("it can't be loaded")

    assert _observed(check).status == "fails"
    assert _observed(check, refusing=True).status == "refused"


def test_an_unknown_family(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="brt"):
        probe(families=["brt"], output=tmp_path)


def test_a_slice_meets_every_method_and_every_family() -> None:
    able, unable = choices(methods)
    assert {one["name"] for one in able} == set(AVAILABLE) and set(unable) == set(UNAVAILABLE)
    tasks = slice_of(list(full_grid(able, list(FAMILIES), list(variants))))
    assert {task.family for task in tasks} == set(FAMILIES) and {task.key[0] for task in tasks} == set(AVAILABLE)
    assert len(tasks) == max(len(AVAILABLE), len(FAMILIES)) and not any(COMPILED in task.checks for task in tasks)


FORMATS = ["float32", "bfloat16", "int8", "nf4"]


def test_what_is_compiled() -> None:
    able, _ = choices(["lora", "ia3", "c3a"])
    tasks = list(full_grid(able, list(FAMILIES), FORMATS))
    assert {task.variant for task in tasks if task.key[:2] == ("c3a", "vit")} == {FORMATS[0]}
    assert {task.variant for task in tasks if task.key[:2] == ("c3a", "llama")} == set(FORMATS)
    assert {task.variant for task in tasks if task.key[:2] == ("ia3", "vit")} == set(FORMATS)
    compiled = {(task.key[0], task.family) for task in tasks if COMPILED in task.checks}
    assert compiled == {
        *(("lora", family) for family in FAMILIES),
        *((name, family) for name in ("ia3", "c3a") for family in ("bert", "llama")),
    }
    assert {task.variant for task in tasks if COMPILED in task.checks} == {FORMATS[0]}


def _cell(method: str, family: str = "bert", **checks: str) -> Cell:
    found: Mapping[str, Any] = {TRAINED: "works", **checks}
    return Cell(method, family, "float32", {name: Observation(status) for name, status in found.items()}, 1.0)


def test_declarations_are_held_against_what_was_seen() -> None:
    assert not contradictions(ProbeTable({}, (_cell("lora", merged="works"), _cell("prefix", merged="refused"))))
    found = contradictions(ProbeTable({}, (_cell("lora", merged="refused"), _cell("prefix", merged="works"))))
    assert found == [
        "lora declares that it can be merged, but it was refused on every model where another method was",
        "prefix declares that it can't be merged, but it was",
    ]
    # A model on which nothing can be merged says nothing of a method.
    assert not contradictions(ProbeTable({}, (_cell("lora", merged="refused"), _cell("ia3", merged="refused"))))
    # One family that has no place for it contradicts nothing.
    seen = (_cell("lora", merged="refused"), _cell("lora", "llama", merged="works"))
    assert not contradictions(ProbeTable({}, seen))
    assert contradictions(ProbeTable({}, (_cell("lora", merged="fails"),)))


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    why = "refused: a colon: and a </script>"
    checks = {TRAINED: Observation("works"), "merged": Observation("refused", why)}
    table = ProbeTable({"torch": "2"}, (Cell("lora", "bert", "float32", checks, 1.5),), {"xlora": "because"})
    table.write(tmp_path / FILE)
    assert ProbeTable.read(tmp_path / FILE) == table
    write_page(table, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["cells"][0]["checks"]["merged"] == f"refused: {why}"
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match="not the table of a probe"):
        ProbeTable.read(tmp_path / "broken.json")


def test_a_document_keeps_all_but_its_table(tmp_path: Path) -> None:
    table = ProbeTable({}, (_cell("lora", merged="works"), _cell("lora", "llama", merged="refused")))
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- probe: begin -->\nold\n<!-- probe: end -->\nafter\n")
    write_section(table, path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| `lora` | 2/2 | 1/2 |" in section(table) and section(table) in text
    path.write_text("no marks")
    with pytest.raises(ConfigError, match="no place for the table"):
        write_section(table, path)


@pytest.mark.slow
def test_the_slice_works_or_is_refused(tmp_path: Path) -> None:
    table = probe(part=True, output=tmp_path)
    assert not contradictions(table)
    assert {name for cell in table.cells for name in cell.checks} == {TRAINED, *CHECKS} - {COMPILED}
