"""One number per row: its unit changes nothing, and what is not a number is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pefttools
from pefttools.data import read_table
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import choose_task
from tests.pefttools.tasks.samples import SAMPLES

TASK = choose_task("regression")


@pytest.mark.parametrize("value", ['"many"', "null", "true", "NaN", "Infinity", "[1]"])
def test_scores_that_are_not_numbers_are_named(value: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"text": "x", "stars": 1.5}}\n{{"text": "y", "stars": {value}}}\n', encoding="utf-8")
    table = read_table(str(path), TASK.columns(), {"number": "stars"})
    with pytest.raises(DataError, match=r"r\.jsonl, row 2, column 'stars': expected a number, got"):
        TASK.check(table, [])


def test_numbers_beyond_the_range_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("text,number\nx,4\ny,-7.5\n")
    table = read_table(str(path), TASK.columns(), {})
    TASK.check(table, [])
    with pytest.raises(DataError, match=r"row 2, column 'number': -7.5 is not within task.range, -4 to 4"):
        choose_task({"name": "regression", "range": [-4, 4]}).check(table, [])


def _trained(base: str, rows: list[dict[str, Any]], folder: Path, **task: Any) -> Any:
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return pefttools.train(
        {"base": base, "method": "lora", "task": {"name": "regression", "head": "mean", **task},
         "data": {"train": str(path), "validation": 0.34}, "output": str(folder / "a"),
         "training": {"max_steps": 6, "batch_size": 8, "precision": "float32"}}
    )  # fmt: skip


def test_the_unit_of_the_numbers_changes_nothing(tiny_bert: str, tmp_path: Path) -> None:
    """Also where they are -100, which elsewhere marks what no loss stands on."""
    _, rows = SAMPLES["regression"]
    small = _trained(tiny_bert, rows, tmp_path / "small")
    large = _trained(tiny_bert, [{**row, "number": 40 * row["number"]} for row in rows], tmp_path / "large")
    assert any(40 * row["number"] == -100 for row in rows)
    assert large.validation.metrics["pearson"] == pytest.approx(small.validation.metrics["pearson"], abs=1e-4)
    assert large.validation.metrics["rmse"] == pytest.approx(40 * small.validation.metrics["rmse"], rel=1e-4)
    before = [one["prediction"] for one in pefttools.predict(tmp_path / "small" / "a", ["one two", "three"])]
    after = [one["prediction"] for one in pefttools.predict(tmp_path / "large" / "a", ["one two", "three"])]
    assert after == pytest.approx([40 * one for one in before], rel=1e-3)


def test_predictions_stay_within_the_range(tiny_bert: str, tmp_path: Path) -> None:
    _, rows = SAMPLES["regression"]
    _trained(tiny_bert, rows, tmp_path / "a", range=[-2.5, 3.5])
    loaded = pefttools.load(tmp_path / "a" / "a")
    loaded.head.linear.bias.data.fill_(100.0)  # type: ignore[union-attr]
    assert pefttools.predict(loaded, ["one"])[0]["prediction"] == 3.5


def test_what_is_always_the_same_can_not_be_learned(tiny_bert: str, tmp_path: Path) -> None:
    rows = [{"text": f"{['one', 'two'][n % 2]} {n}", "number": 2.0} for n in range(20)]
    with pytest.raises(ConfigError, match="all rows have the same number, 2"):
        _trained(tiny_bert, rows, tmp_path / "a")


def test_a_regression_is_not_merged(tiny_bert: str, tmp_path: Path) -> None:
    """Others would take standard deviations for numbers."""
    _trained(tiny_bert, SAMPLES["regression"][1], tmp_path / "a", head="model")
    with pytest.raises(ConfigError, match="standard deviations"):
        pefttools.merge(tmp_path / "a" / "a", tmp_path / "merged")


@pytest.mark.slow
def test_adapters_of_other_units_are_not_added_up(tiny_bert: str, tmp_path: Path) -> None:
    _, rows = SAMPLES["regression"]
    _trained(tiny_bert, rows, tmp_path / "a")
    _trained(tiny_bert, [{**row, "number": 40 * row["number"]} for row in rows], tmp_path / "b")
    with pytest.raises(ConfigError, match="calibrated on different rows"):
        pefttools.compose([tmp_path / "a" / "a", tmp_path / "b" / "a"], [1, 1], tmp_path / "c")
    pefttools.compose([tmp_path / "a" / "a", tmp_path / "a" / "a"], [0.5, 0.5], tmp_path / "c")
    alone, added = (pefttools.predict(folder, ["one two"])[0] for folder in (tmp_path / "a" / "a", tmp_path / "c"))
    assert added["prediction"] == pytest.approx(alone["prediction"], abs=1e-3)
