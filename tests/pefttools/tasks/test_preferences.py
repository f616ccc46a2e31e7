"""Rows of a better and a worse answer: how they are read, cut, refused and measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.bases import locate_base
from pefttools.errors import ConfigError, DataError
from pefttools.metrics.preferences import Margin, Preferred, PreferredPerToken
from pefttools.recipe import choose_task
from pefttools.tasks.language.preferences import PreferencePrediction
from pefttools.testing.rows import table_of_rows

LONG = "one two three four five six seven eight nine ten"


def _encoded(base: str, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    task = choose_task({"name": "preferences", **options})
    table = table_of_rows(rows, task)
    task.check(table, ())
    return task.encode(table, task.processor(locate_base(base)), ())


def test_both_answers_follow_the_same_prompt_however_much_is_cut(tiny_llama: str) -> None:
    row = {"prompt": LONG, "chosen": "red", "rejected": "green blue white red green blue"}
    (whole,), (cut,) = _encoded(tiny_llama, [row]), _encoded(tiny_llama, [row], max_length=16)
    before = whole["prompt_ids"]
    assert len(cut["prompt_ids"]) < len(before) and cut["length"] == whole["length"] == len(whole["rejected_ids"])
    for one in (whole, cut):
        prompt = one["prompt_ids"]
        for ids, labels in (("input_ids", "labels"), ("rejected_ids", "rejected_labels")):
            assert one[ids][: len(prompt)] == prompt
            assert one[labels] == [-100] * len(prompt) + one[ids][len(prompt) :]
        assert len(one["input_ids"]) < len(one["rejected_ids"]) <= 16 or one is whole
    assert cut["input_ids"][len(cut["prompt_ids"]) :] == whole["input_ids"][len(before) :], "no answer is cut"


def test_a_chat_and_a_prompt_are_read_alike(tiny_llama: str) -> None:
    answers = {"chosen": "red", "rejected": "blue"}
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    asked = {"messages": [*chat, {"role": "user", "content": "three"}], **answers}
    (found,) = _encoded(tiny_llama, [asked])
    task = choose_task({"name": "causal-lm"})
    written = {"messages": [*asked["messages"], {"role": "assistant", "content": "red"}]}
    (plain,) = task.encode(table_of_rows([written], task), task.processor(locate_base(tiny_llama)), ())
    assert {name: found[name] for name in plain} == plain


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rejected": "red"}, "row 2.*both answers are the same"),
        ({"rejected": None}, "row 2.*rejected"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "row 2.*ends with"),
    ],
)
def test_a_row_without_a_preference_is_refused(changes: dict[str, Any], why: str, tiny_llama: str) -> None:
    row = {"prompt": "one", "chosen": "red", "rejected": "blue"}
    with pytest.raises(DataError, match=why):
        _encoded(tiny_llama, [row, {**row, **changes}])


def test_metrics_are_of_whole_answers_and_of_their_tokens() -> None:
    """The first is as likely as the rejected one is by token only; the second is ahead in both; the third is a tie."""
    rows = [
        PreferencePrediction(None, 6.0, 0, 6, 5.0, 2),
        PreferencePrediction(None, 1.0, 0, 1, 4.0, 2),
        PreferencePrediction(None, 2.0, 0, 2, 2.0, 2),
    ]
    truths = ["chosen"] * 3
    assert Preferred().compute(rows, truths) == 0.5
    assert PreferredPerToken().compute(rows, truths) == pytest.approx(2.5 / 3)
    assert Margin().compute(rows, truths) == pytest.approx(2 / 3)
    assert [row.entry("chosen")["correct"] for row in rows] == [False, True, False]


def test_the_margin_is_the_models_own(tiny_llama: str) -> None:
    model = pefttools.wrap(tiny_llama, "lora", task="preferences", precision="float32").eval()
    rows = [{"prompt": LONG[: 9 + n], "chosen": LONG[: 4 + 5 * n], "rejected": LONG[8 : 20 + n]} for n in range(5)]
    examples = _encoded(tiny_llama, rows)
    found = model.spec.task.predict(model, examples, batch_size=3)
    for one, example in zip(found, examples, strict=True):
        assert isinstance(one, PreferencePrediction)
        better, worse = (
            _spoken(model, example[f"{name}_ids"], example[labels])
            for name, labels in (("input", "labels"), ("rejected", "rejected_labels"))
        )
        assert one.margin == pytest.approx(better - worse, abs=1e-3)


def _spoken(model: Any, ids: list[int], labels: list[int]) -> float:
    with torch.no_grad():
        likely = model.transformer(torch.tensor([ids])).logits[0].log_softmax(-1)
    return math.fsum(float(likely[place, token]) for place, token in enumerate(labels[1:]) if token != -100)


def test_an_artifact_of_completions_goes_on_with_preferences(tiny_llama: str, tmp_path: Path) -> None:
    """What was trained on completions is a start for preferences, and the other way round."""
    data = tmp_path / "rows.jsonl"
    rows = [
        f'{{"prompt": "say {n}", "chosen": "red {n}", "rejected": "blue", "completion": "red"}}\n' for n in range(24)
    ]
    data.write_text("".join(rows), encoding="utf-8")
    recipe = {
        "base": tiny_llama, "method": "lora", "task": {"name": "causal-lm", "generate": False},
        "data": {"train": str(data), "validation": 0.25}, "output": tmp_path / "first",
        "training": {"max_steps": 2, "batch_size": 8, "precision": "float32", "evaluations": 1},
    }  # fmt: skip
    assert pefttools.train(recipe) is not None
    second = {**recipe, "task": "preferences", "objective": "dpo", "from": tmp_path / "first"}
    stored = pefttools.train({**second, "output": tmp_path / "second"})
    assert stored is not None and stored.manifest.task.name == "preferences"


def test_a_metric_of_likelihoods_needs_no_generated_answers() -> None:
    task = choose_task({"name": "preferences", "metrics": ["preferred_per_token"]})
    assert task.load_metrics(()) == [] and "preferred_per_token" in [one.name for one in task.metrics]
    with pytest.raises(ConfigError, match="compare generated answers"):
        choose_task({"name": "preferences", "metrics": ["bleu"]}).load_metrics(())
