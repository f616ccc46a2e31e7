"""Groups of labels that are told apart, and labels that a prediction may give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pefttools
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import choose_task

LABELS = ["a", "b", "c", "d", "e"]
GROUPS = [["a", "c"], ["b", "d"]]


def _table(labels: str) -> Table:
    rows = [{"text": "x", "label": label} for label in labels]
    return Table("here", rows, {"text": "text", "label": "label"}, range(1, len(rows) + 1))


def _task(labels: str = "abcd", **options: Any) -> Any:
    return choose_task({"name": "sequence-classification", **options}).settled(_table(labels), LABELS)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), st.integers(0, 99))
def test_a_row_is_told_apart_from_its_own_group_alone(labels: list[str], seed: int) -> None:
    logits = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed))
    numbers = torch.tensor([LABELS.index(label) for label in labels])
    each = []
    for row, label in zip(logits, labels, strict=True):
        group = next(one for one in GROUPS if label in one)
        own = torch.stack([row[LABELS.index(one)] for one in group])
        each.append(-own.log_softmax(0)[group.index(label)])
    task = _task(among=GROUPS)
    torch.testing.assert_close(task.loss(logits, numbers), torch.stack(each).mean())
    # Logits of the other groups, and of a label in none, have no part in it, nor in how far two answers are apart.
    other = logits + 5 * torch.randn(5) * torch.tensor(
        [[label not in _group(one) for label in LABELS] for one in labels]
    )
    torch.testing.assert_close(task.loss(other, numbers), torch.stack(each).mean())
    assert float(task.divergence(other, logits, numbers)) == pytest.approx(0.0, abs=1e-5)


def _group(label: str) -> list[str]:
    return next(one for one in GROUPS if label in one)


def test_a_prediction_is_one_of_the_answers() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])
    for options, label, rest in (
        ({}, "e", LABELS),
        ({"among": GROUPS}, "d", ["a", "b", "c", "d"]),
        ({"answers": ["a", "c"]}, "c", ["a", "c"]),
        ({"among": GROUPS, "answers": ["a"]}, "a", ["a"]),
    ):
        found = choose_task({"name": "sequence-classification", **options}).decode(logits, {}, LABELS)
        assert LABELS[found.answer] == label
        assert sum(found.probabilities) == pytest.approx(1.0)
        assert all((p > 0) == (one in rest) for one, p in zip(LABELS, found.probabilities, strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"among": [["a", "b"], ["b", "c"]]}, "'b' is listed twice"),
        ({"among": [["a"], []]}, "a group is empty"),
        ({"among": [["a", "x"]]}, "task.among: there is no label 'x'"),
        ({"answers": ["a", "cc"]}, "task.answers: there is no label 'cc'"),
        ({"among": [["a", "b", "c", "d"]], "label_smoothing": 0.1}, "label_smoothing would spread"),
    ],
)
def test_groups_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _task(**options)


def test_a_row_in_no_group_is_named() -> None:
    with pytest.raises(DataError, match="here, row 3, column 'label': the label 'e' is in no group"):
        _task("abe", among=GROUPS)


def test_an_artifact_keeps_its_answers(intents: dict[str, str], tiny_bert: str, tmp_path: Path) -> None:
    """Also behind a server's pool, which reads the task from the manifest."""
    answers = ["card_arrival", "pin_blocked"]
    stored = pefttools.train(
        {"base": tiny_bert, "method": "lora", "data": intents, "task": {"name": "sequence-classification",
         "answers": answers}, "training": {"max_steps": 2, "precision": "float32"},
         "output": str(tmp_path / "artifact")}
    )  # fmt: skip
    assert stored is not None
    texts = ["where is my card", "the rate is bad", "it was stolen"]
    alone = pefttools.predict(tmp_path / "artifact", texts)
    assert {one["prediction"] for one in alone} <= set(answers)
    pool = pefttools.AdapterPool(tiny_bert)
    pool.load("one", tmp_path / "artifact")
    pooled = pool.predict(texts, ["one"] * 3)
    assert [one["prediction"] for one in pooled] == [one["prediction"] for one in alone]
    assert {one["prediction"] for one in pooled} <= set(answers)
    raw = pool(texts, ["one"] * 3)
    assert [one.label for one in raw] == [one["prediction"] for one in alone]
    assert [one.score for one in raw] == pytest.approx([one["score"] for one in alone], abs=1e-5)
    with pytest.raises(ConfigError, match="would also answer with labels that"):
        pefttools.merge(tmp_path / "artifact", tmp_path / "merged")
