"""Curves over labels per class: how many labels a method saves."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from pefttools.cli.main import build_app
from pefttools.errors import ConfigError
from pefttools.eval import curve
from pefttools.eval.curves.data import Equivalent
from pefttools.eval.curves.equivalent import labels_for
from pefttools.eval.curves.run import HTML, JSON, joined, write
from pefttools.eval.curves.terminal import show
from pefttools.eval.reporting import load_report
from tests.conftest import MINILM
from tests.eval.sample import EVIL, write_sample


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 0.1), min_size=1, max_size=4), st.floats(0, 1), st.data())
def test_a_curve_is_read_as_it_was_drawn(steps: list[float], share: float, data: st.DataObject) -> None:
    scores = [0.3]
    for step in steps:
        scores.append(scores[-1] + step)
    points = [(4.0 * 2**n, score) for n, score in enumerate(scores)]
    at = data.draw(st.integers(0, len(steps) - 1))
    score = scores[at] + share * (scores[at + 1] - scores[at])
    labels, beyond = labels_for(score, points)
    assert beyond == "" and labels == pytest.approx(points[at][0] * 2**share, rel=1e-6)
    assert labels_for(0.2, points) == (4.0, "<")
    assert labels_for(0.9, points) == (points[-1][0], ">")


def test_of_a_curve_that_goes_down_the_first_place_counts() -> None:
    points = [(4.0, 0.5), (8.0, 0.6), (16.0, 0.55), (32.0, 0.7)]
    assert labels_for(0.55, points)[0] == pytest.approx(4 * math.sqrt(2))
    assert labels_for(0.5, points) == (4.0, "")
    assert labels_for(0.5, [(4.0, 0.5), (8.0, 0.4)]) == (4.0, "")


def test_texts() -> None:
    assert Equivalent(9.3123, "").text == "9.31"
    assert Equivalent(32.0, ">", (11.0, ""), (32.0, ">")).text == ">32 (11 to >32)"


@pytest.fixture(scope="module")
def spec(intents: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "name": "intents", "base": MINILM, "methods": ["head", {"name": "bitfit", "label": "<b>"}], "baseline": "head",
        "data": {**intents, "limit": {"test": 40, "validation": 20}}, "memory_check": False,
        "training": {"epochs": 1, "batch_size": 16}, "output": str(tmp_path_factory.mktemp("curve") / "out"),
    }  # fmt: skip


def test_the_files_of_a_curve(tmp_path: Path) -> None:
    """Of records; one label tries to be a script."""
    for count in (4, 16):
        write_sample(tmp_path / str(count), rows=100 * count)
    found = joined("A curve", {count: load_report(tmp_path / str(count)) for count in (4, 16)}, tmp_path)
    assert found.baseline == "full" and found.sizes == [4, 16] and len(found.of("lora")) == 2
    assert all(point.equivalent is not None for point in found.of("lora"))
    assert all(point.equivalent is None for point in found.of("full"))
    write(found)
    content = json.loads((tmp_path / JSON).read_text())
    assert content["points"][0]["score"] == found.points[0].score and content["baseline"] == "full"
    page = (tmp_path / HTML).read_text()
    assert "labels per class that full needs for it" in page and EVIL not in page and "&lt;script&gt;document" in page
    console = Console(width=200, record=True, file=io.StringIO())
    show(found, console)
    text = console.export_text()
    assert "A curve: accuracy, % by labels per class" in text and "Labels per class that full needs" in text
    assert text.count("lora") == 2 and f"{100 * found.of('lora')[0].score:.1f}" in text  # type: ignore[operator]


@pytest.mark.slow
def test_a_comparison_at_two_sizes(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = curve(spec, [6, 2])
    assert [(point.per_class, point.rows) for point in found.of("head")] == [(2, 8), (6, 24)]
    assert found.names == ["head", "<b>"] and found.baseline == "head" and found.metric == "accuracy"
    for point in found.points:
        assert point.score is not None and point.interval is not None and point.seeds == 1
        assert (point.equivalent is None) == (point.name == "head")
        if point.equivalent is not None:
            assert point.equivalent.low is not None and point.equivalent.high is not None
            assert point.equivalent.low[0] <= point.equivalent.labels <= point.equivalent.high[0]
    content = json.loads((found.folder / JSON).read_text())
    assert content["points"][0]["score"] == found.points[0].score
    page = (found.folder / HTML).read_text()
    assert "labels per class that head needs for it" in page and "&lt;b&gt;" in page and "<b>" not in page[-6000:]
    assert (found.folder / "6-per-class" / "report" / "index.html").is_file()
    # Again: all runs are there, and nothing is trained.
    monkeypatch.setattr("pefttools.eval.comparison._Pool._start", lambda self, run: pytest.fail(f"{run.id} ran again"))
    assert curve(spec, [2, 6]).points == found.points


@pytest.mark.slow
def test_the_command(spec: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(spec))
    done = CliRunner().invoke(build_app(), ["curve", str(path), "--per-class", "2,6"])
    assert done.exit_code == 0, done.output
    assert "Labels per class that head needs for the same" in done.stdout and HTML in done.stdout


def test_numbers_that_make_no_curve(spec: dict[str, Any]) -> None:
    for sizes in ([4], [4, 4], [0, 4]):
        with pytest.raises(ConfigError, match="two or more numbers"):
            curve(spec, sizes)
