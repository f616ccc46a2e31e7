"""Several labels per row: how they are written, and from which probability on they are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import pefttools
from pefttools.data import read_table
from pefttools.errors import DataError
from pefttools.recipe import choose_task
from pefttools.tasks.text.thresholds import FEWEST_ROWS, best_thresholds

TASK = choose_task("multi-label-classification")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40))
def test_a_threshold_is_the_best_there_is(rows: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([score / 10 for score, _ in rows]), np.array([one for _, one in rows])
    (found,) = best_thresholds(scores[:, None].tolist(), [{0} if one else () for one in truth], shared=True)
    assert 0 <= found <= 1
    if truth.any():
        every = [f1_score(truth, scores >= limit, zero_division=0) for limit in np.arange(-0.05, 1, 0.1)]
        assert f1_score(truth, scores >= found, zero_division=0) == pytest.approx(max(every))


def test_a_rare_label_goes_by_all_labels_together() -> None:
    often = [{0} for _ in range(FEWEST_ROWS)] + [set() for _ in range(20)]
    scores = [[0.3, 0.9] for _ in range(FEWEST_ROWS)] + [[0.1, 0.05] for _ in range(20)]
    first, second = best_thresholds(scores, [one | {1} if n == 0 else one for n, one in enumerate(often)], shared=False)
    assert 0.1 < first <= 0.3, "its own"
    assert second == best_thresholds(scores, [one | {1} if n == 0 else one for n, one in enumerate(often)],
                                     shared=True)[0]  # fmt: skip


def _read(path: Path, content: str) -> Any:
    path.write_text(content, encoding="utf-8")
    return read_table(str(path), TASK.columns(), {})


def test_one_label_will_do(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task="multi-label-classification", labels=["spam"])
    assert set(pefttools.predict(model, ["one"], all_scores=True)[0]["scores"]) == {"spam"}


def test_labels_are_lists_or_texts(tmp_path: Path) -> None:
    listed = _read(tmp_path / "a.jsonl", '{"text": "x", "labels": ["b", "a"]}\n{"text": "y", "labels": []}\n')
    written = _read(tmp_path / "a.csv", "text,labels\nx,b| a\ny,\n")
    for table in (listed, written):
        assert TASK.labels(table) == ["a", "b"]
        TASK.check(table, ["a", "b"])
        assert [TASK.target(table, index, ["a", "b"]) for index in range(2)] == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ('["a", "c"]', "the label 'c' does not occur in the training rows"),
        ('["a", "a"]', "the label 'a' is listed twice"),
        ("null", r"expected a list of labels, or one text with '\|' between them, got None"),
        ('[["a"]]', r"\['a'\] is not one label"),
        ('["a", " "]', "the label '' does not occur|the label is empty"),
    ],
)
def test_bad_rows_are_named(labels: str, problem: str, tmp_path: Path) -> None:
    table = _read(tmp_path / "r.jsonl", f'{{"text": "x", "labels": ["a"]}}\n{{"text": "y", "labels": {labels}}}\n')
    with pytest.raises(DataError, match=rf"r\.jsonl, row 2, column 'labels': ({problem})"):
        TASK.check(table, ["a", "b"])


def test_thresholds_are_chosen_on_validation_and_kept(tiny_bert: str, tmp_path: Path) -> None:
    """What a trained model gives is what its artifact gives: the same thresholds, not 0.5."""
    rows = [{"text": f"{['one', 'two', 'three'][n % 3]} apples", "labels": ["x"] if n % 3 else ["x", "y"]}
            for n in range(60)]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    recipe = {
        "base": tiny_bert, "method": {"name": "lora", "r": 2}, "output": str(tmp_path / "a"),
        "task": {"name": "multi-label-classification", "head": "mean"},
        "data": {"train": str(path), "validation": 0.4}, "training": {"max_steps": 2, "batch_size": 8},
    }  # fmt: skip
    stored = pefttools.train(recipe)
    assert stored is not None
    kept = pefttools.inspect(tmp_path / "a").task.calibration
    assert kept is not None and len(kept["thresholds"]) == 2 and kept["thresholds"] != [0.5, 0.5]
    loaded = pefttools.load(tmp_path / "a")
    assert loaded.spec.task.calibration == kept
    # Untrained, a fixed threshold gives nothing or everything: on validation the chosen ones are the best there are.
    fixed = pefttools.train({**recipe, "task": {**recipe["task"], "threshold": 0.5}, "output": str(tmp_path / "b")})  # type: ignore[dict-item]
    assert fixed is not None and pefttools.inspect(tmp_path / "b").task.calibration is None
    assert stored.validation.metrics["f1_micro"] >= fixed.validation.metrics["f1_micro"]
    found = pefttools.predict(tmp_path / "a", ["one apples"], all_scores=True)[0]
    wanted = [label for label, limit in zip(loaded.labels, kept["thresholds"], strict=True)
              if found["scores"][label] >= limit]  # fmt: skip
    assert found["prediction"] == wanted
