"""Examples that are shown before every prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pefttools
from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.recipe import choose_task
from pefttools.tasks.language.examples import drawn_examples

COLUMNS = {"prompt": "prompt", "completion": "completion"}
ROWS = [{"prompt": f"question {number}", "completion": "abc"[number % 3]} for number in range(12)]


def _table(rows: list[dict[str, Any]]) -> Table:
    return Table("here", rows, COLUMNS, range(1, len(rows) + 1))


@settings(deadline=None)
@given(st.permutations(ROWS), st.integers(1, 12))
def test_answers_are_shown_in_turn_whatever_the_order_of_the_rows(rows: list[dict[str, Any]], count: int) -> None:
    found = drawn_examples(_table(rows), count)
    assert found == drawn_examples(_table(ROWS), count)
    assert len({one.prompt for one in found}) == count
    for at in range(0, count - 2, 3):
        assert {one.completion for one in found[at : at + 3]} == set("abc")


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task.shots is 13, but there are only 12 different training rows"):
        drawn_examples(_table(ROWS), 13)


def _prompt(base: str, row: dict[str, Any], **options: Any) -> str:
    model = pefttools.wrap(base, "untuned", task={"name": "causal-lm", "template": "none", **options})
    text: str = model.tokenizer.decode(model.spec.task.prompt_ids(row, model.processor), skip_special_tokens=True)
    return text


def test_how_they_are_written(tiny_llama: str) -> None:
    shown = [{"prompt": "one", "completion": "two"}, {"prompt": "three", "completion": "four"}]
    row = {"prompt": "five"}
    wanted = "user : one assistant : two user : three assistant : four user : five assistant :"
    assert _prompt(tiny_llama, row, examples=shown) == wanted
    with_system = _prompt(tiny_llama, row, examples=shown, system="count")
    assert with_system == f"system : count {wanted}"
    # What is asked is not shown along with its answer.
    assert _prompt(tiny_llama, {"prompt": "three"}, examples=shown) == (
        "user : one assistant : two user : three assistant :"
    )


def test_they_are_stored_with_the_adapter(tiny_llama: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe = {
        "base": tiny_llama, "method": "lora", "output": str(tmp_path / "a"),
        "task": {"name": "causal-lm", "shots": 3, "answers": ["a", "b", "c"]},
        "data": {"train": str(path), "validation": str(path)},
        "training": {"max_steps": 2, "batch_size": 4, "precision": "float32"},
    }  # fmt: skip
    assert pefttools.train(recipe) is not None
    loaded = pefttools.load(tmp_path / "a")
    options = loaded.spec.task.options
    assert options.shots == 0 and options.examples == drawn_examples(_table(ROWS), 3)
    assert {one["prediction"] for one in pefttools.predict(tmp_path / "a", ["a question"])} <= {"a", "b", "c"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": 1, "examples": [{"prompt": "a", "completion": "b"}]}, "mutually exclusive"),
        ({"shots": 1, "train_on": "all"}, "train_on=all would learn the answers of the examples"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_task({"name": "causal-lm", **options})
