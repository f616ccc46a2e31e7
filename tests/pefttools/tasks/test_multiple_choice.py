"""Multiple choice: what is right, how choices are read together, and what rows with fewer of them are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import choose_task
from pefttools.tasks.text.choice_rows import right_choice
from pefttools.tasks.text.multiple_choice import MultipleChoice
from pefttools.testing.rows import table_of_rows
from tests.pefttools.tasks.samples import SAMPLES

NAME = "multiple-choice"
OPTIONS, ROWS = SAMPLES[NAME]
FRUIT = ["apples", "pears", "plums"]


def _task(**options: Any) -> MultipleChoice:
    found = choose_task({"name": NAME, **options})
    assert isinstance(found, MultipleChoice)
    return found


def _table(**cells: Any) -> Table:
    row = {"text": "Ann eats", "choices": FRUIT, "label": 0, **cells}
    return Table("choices.csv", [row], {name: name for name in row}, [1])


def _recipe(base: str, folder: Path, **task: Any) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    return {
        "base": base, "method": "lora", "task": {"name": NAME, **OPTIONS, **task},
        "data": {"train": str(path), "validation": 0.34}, "output": str(folder / "out"),
        "training": {"max_steps": 4, "batch_size": 8, "precision": "float32"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "choices", "kind", "wanted"),
    [
        (1, FRUIT, None, 1),
        ("1", FRUIT, None, 1),
        (1.0, FRUIT, None, 1),
        ("B", FRUIT, None, 1),
        ("b", FRUIT, None, 1),
        (" pears ", FRUIT, None, 1),
        (2, ["1", "2", "3"], "text", 1),
        (2, ["1", "2", "3"], "number", 2),
        ("A", ["B", "A"], "letter", 0),
        ("A", ["B", "A"], "text", 1),
        ("0", ["0", "1"], None, 0),  # by its number and by its text the same
    ],
)
def test_a_label_is_a_number_a_letter_or_a_text(label: Any, choices: list[str], kind: Any, wanted: int) -> None:
    assert right_choice(_table(label=label, choices=choices), 0, choices, kind) == wanted


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"label": 3}, "column 'label': '3' is not one of the 3 choices"),
        ({"label": -1}, "'-1' is not one of the 3 choices"),
        ({"label": "D"}, "'D' is not one of the 3 choices"),
        ({"label": "cherries"}, "'cherries' is not one of the 3 choices"),
        ({"label": None}, "the right choice is missing"),
        ({"label": [1]}, "is not one label"),
        ({"label": 2, "choices": ["1", "2", "3"]}, "may mean by its number choice 2 or by its text choice 1"),
        ({"label": "a", "choices": ["b", "a"]}, "may mean by its letter choice 0 or by its text choice 1"),
        ({"label": "x", "choices": ["x", "x"]}, "may mean by its text choice 0 or by its text choice 1"),
        ({"choices": "apples"}, "column 'choices': expected a list of at least two texts"),
        ({"choices": ["apples"]}, "expected a list of at least two texts"),
        ({"choices": ["apples", " "]}, r"choice 1 \(from 0\) must be text"),
        ({"choices": ["apples", ["pears"]]}, r"choice 1 \(from 0\) must be text"),
        ({"text": ""}, "column 'text': expected text"),
        ({"question": ""}, "column 'question': expected text"),
    ],
)
def test_what_is_ambiguous_or_missing_is_refused_by_its_place(cells: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"choices.csv, row 1, .*{said}"):
        _task().check(_table(**cells), ())


def test_choices_in_one_text_are_divided(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task={"name": NAME, "head": "mean"}, precision="float32")
    listed = pefttools.predict(model, [{"text": "Ann eats", "choices": FRUIT}], all_scores=True)
    assert (
        pefttools.predict(model, [{"text": "Ann eats", "choices": " apples|pears | plums"}], all_scores=True) == listed
    )
    (found,) = listed
    assert found["prediction"] == FRUIT[found["choice"]] and found["scores"][found["choice"]] == found["score"]
    assert sum(found["scores"]) == pytest.approx(1)


def test_a_question_is_read_before_each_choice(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task={"name": NAME, "head": "mean"}, precision="float32")
    rows = [{"text": "Ann eats", "question": "what ?", "choices": FRUIT}]
    (example,) = model.spec.task.encode(table_of_rows(rows, model.spec.task), model.processor, (), labelled=False)
    texts = [model.processor.decode(ids) for ids in example["input_ids"]]
    assert texts == [f"[CLS] ann eats [SEP] what? {fruit} [SEP]" for fruit in FRUIT]
    assert example["size"] == max(map(len, example["input_ids"])) == example["length"]
    assert model.spec.task.tokens([example]) == sum(map(len, example["input_ids"]))


def test_a_row_is_scored_alike_with_neighbours_of_more_choices(tiny_bert: str) -> None:
    """Trained together ``[rows, choices]``, asked choice by choice: the same scores, and the same gradients."""
    model = pefttools.wrap(tiny_bert, "lora", task={"name": NAME, "head": "mean"}, precision="float32")
    task, rows = model.spec.task, ROWS[:3]
    examples = task.encode(table_of_rows(rows, task), model.processor, ())
    assert [len(one["input_ids"]) for one in examples] == [2, 3, 4]
    together = model.run(examples)
    assert together.shape == (3, 4) and together.isinf().sum() == 2 + 1
    for row, example in zip(together, examples, strict=True):
        alone = model.run(task.parts(example)).squeeze(-1)
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-5, atol=1e-6)
    batch = task.collate(examples, model.processor)
    labels = batch.pop("labels")
    model.eval()
    model(**batch, targets=labels).backward()
    weights = [p for p in model.parameters() if p.requires_grad]
    grads = [p.grad.clone() for p in weights if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
    model.zero_grad()
    for example in examples:
        one = task.collate([example], model.processor)
        model(**{name: tensor for name, tensor in one.items() if name != "labels"}, targets=one["labels"],
              num_items_in_batch=3).backward()  # fmt: skip
    again = [p.grad for p in weights if p.grad is not None]
    for grad, other in zip(grads, again, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-6)


def test_memory_is_planned_for_as_many_choices_as_there_are(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task={"name": NAME, "head": "mean"}, precision="float32")
    rows = Table("rows", ROWS, {name: name for name in ROWS[0]}, range(1, len(ROWS) + 1))
    for task, wanted in ((_task(), 4), (_task(choices=7), 7), (_task().settled(rows.take(range(2)), ()), 3)):
        assert task.planned_batch(model, [9, 12])["input_ids"].shape == (2, wanted, 12)
        assert task.planned_parts(model, [9, 12])["input_ids"].shape == (2, 12), "asked choice by choice"
    assert _task(choices=7).settled(rows, ()).options.choices == 7


def test_the_end_of_a_long_text_goes_and_is_counted(tiny_bert: str) -> None:
    model = pefttools.wrap(
        tiny_bert, "lora", task={"name": NAME, "head": "mean", "max_length": 16}, precision="float32"
    )
    (found,) = pefttools.predict(model, [{"text": "one " * 40, "choices": ["two three", "four"]}])
    assert found["cut_from"] == 40 + 3 + 2
    (whole,) = pefttools.predict(model, [{"text": "one", "choices": ["two three", "four"]}])
    assert "cut_from" not in whole


def test_rows_in_files_are_the_same(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    few = pefttools.train(_recipe(tiny_bert, tmp_path))
    for place in ("data.mapped", "data.table", "training.examples"):
        monkeypatch.setattr(f"pefttools.{place}.SMALL", 5)
    many = pefttools.train({**_recipe(tiny_bert, tmp_path), "output": str(tmp_path / "many")})
    assert few is not None and many is not None
    assert few.validation.metrics == many.validation.metrics
    assert few.model.spec.task.options.choices == 4, "the maximum in the training rows"


def test_methods_that_drop_token_types_are_refused(tiny_bert: str, tiny_llama: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'prefix' can't tell the two texts of a pair apart"):
        pefttools.train({**_recipe(tiny_bert, tmp_path), "method": "prefix"})
    model = pefttools.wrap(tiny_llama, "bottleneck", task={"name": NAME, "head": "last"}, precision="float32")
    assert model.run(model.spec.task.parts(_example(model))).shape == (3, 1)


def _example(model: Any) -> dict[str, Any]:
    task = model.spec.task
    (example,) = task.encode(_table(), model.processor, ())
    return dict(example)
