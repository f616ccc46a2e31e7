"""Scores per class against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import pefttools
from pefttools.cli.main import build_app
from pefttools.tasks.labels.classes import ClassScore, Confusion, class_report


def test_by_hand() -> None:
    report = class_report(["a", "a", "b", "b", "b"], ["a", "b", "b", "b", "c"], ["a", "b", "c", "d"])
    assert report.classes == [
        ClassScore("a", 1, 2, 0.5, 1.0, pytest.approx(2 / 3)),  # type: ignore[arg-type]
        ClassScore("b", 3, 3, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3)),  # type: ignore[arg-type]
        ClassScore("c", 1, 0, 0.0, 0.0, 0.0),
        ClassScore("d", 0, 0, 0.0, 0.0, 0.0),
    ]
    assert report.confusion[0] == Confusion("b", "b", 2)
    assert {(cell.reference, cell.prediction) for cell in report.mistakes()} == {("b", "a"), ("c", "b")}
    assert report.matrix() == [[1, 0, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_the_matrix_holds_every_row_once(rows: list[tuple[str, str]]) -> None:
    report = class_report([one for one, _ in rows], [other for _, other in rows], "abc")
    matrix = report.matrix()
    assert sum(map(sum, matrix)) == len(rows)
    assert [sum(row) for row in matrix] == [one.rows for one in report.classes]
    assert [sum(column) for column in zip(*matrix, strict=True)] == [one.predicted for one in report.classes]


def test_the_command(tiny_bert: str, tmp_path: Path) -> None:
    task = {"name": "sequence-classification", "head": "mean"}
    pefttools.save(pefttools.wrap(tiny_bert, "head", task=task, labels=["no", "yes"]), tmp_path / "a")
    file = tmp_path / "test.csv"
    file.write_text("text,label\nwhere is my card,no\nrate,yes\nwhat is the rate,no\n")
    arguments = ["evaluate", str(tmp_path / "a"), "--data", str(file), "--per-class"]
    shown = CliRunner().invoke(build_app(), arguments)
    assert shown.exit_code == 0 and "Scores per class" in shown.stdout and "Confusion matrix" in shown.stdout
    found = json.loads(CliRunner().invoke(build_app(), [*arguments, "--json"]).stdout)
    assert [one["rows"] for one in found["classes"]] == [2, 1]
    right = sum(cell["rows"] for cell in found["confusion"] if cell["reference"] == cell["prediction"])
    assert right / 3 == pytest.approx(found["accuracy"])
