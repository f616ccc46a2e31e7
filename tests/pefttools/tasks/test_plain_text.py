"""Language modelling on plain texts: every token is learned, and nothing is asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.data import Table
from pefttools.errors import DataError
from pefttools.tasks.task import IGNORE

TEXTS = ["one two three four five", "a card was lost", "what is the rate today, and tomorrow", "three"] * 6
TASK = {"name": "causal-lm", "generate": False, "max_length": 16}


def _table(texts: list[str], **more: list[str]) -> Table:
    columns = {"text": texts, **more}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return Table("rows", rows, {name: name for name in columns}, range(1, len(rows) + 1))


def test_loss_and_perplexity_are_those_of_the_whole_text(tiny_llama: str) -> None:
    model = pefttools.wrap(tiny_llama, "lora", task=TASK, precision="float32")
    task = model.spec.task
    examples = task.encode(_table(TEXTS[:3]), model.processor, [])
    found = task.evaluate(model, examples, batch_size=2)
    total = count = 0.0
    for text in TEXTS[:3]:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])  # this tokenizer writes the end itself
        assert ids[0, -1] == model.tokenizer.eos_token_id
        with torch.no_grad():
            logits = model.transformer(input_ids=ids).logits[0, :-1]  # type: ignore[operator]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    assert found.metrics["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_a_long_text_is_cut_and_counted(tiny_llama: str) -> None:
    from pefttools.tasks.cuts import cuts_of

    model = pefttools.wrap(tiny_llama, "lora", task=TASK)
    task = model.spec.task
    examples = task.encode(_table(["card " * 40, "short"]), model.processor, [])
    cuts = cuts_of(examples, task)
    assert (cuts.cut, cuts.limit) == (1, 16) and cuts.longest > 40
    labels = task.collate(examples, model.processor)["labels"]
    assert int((labels[0] != IGNORE).sum()) == 15, "each token but the first is predicted"


def test_it_is_trained_saved_and_continues_texts(tiny_llama: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in TEXTS))
    recipe: dict[str, Any] = {
        "base": tiny_llama, "method": "lora", "task": TASK, "data": {"train": str(path), "validation": 0.25},
        "training": {"max_steps": 30, "batch_size": 6, "precision": "float32", "learning_rate": 1e-2},
        "output": str(tmp_path / "out"),
    }  # fmt: skip
    stored = pefttools.train(recipe)
    assert stored is not None
    assert stored.validation.metrics["perplexity"] < 1000, "of 30,522 tokens a fresh model knows nothing"
    (said,) = pefttools.predict(tmp_path / "out", ["one two"])
    pool = pefttools.AdapterPool(tiny_llama)
    pool.load("out", tmp_path / "out")
    assert said["prediction"] and pool.generate([{"text": "one two"}], ["out"]) == [said["prediction"]]


def test_what_plain_texts_have_not(tiny_llama: str) -> None:
    generating = pefttools.wrap(tiny_llama, "lora", task={**TASK, "generate": True}).spec.task
    with pytest.raises(DataError, match=r"have no prompts[\s\S]*task.generate=false"):
        generating.check(_table(TEXTS), [])
    with pytest.raises(DataError, match=r"row 2, column 'text': expected text"):
        pefttools.wrap(tiny_llama, "lora", task=TASK).spec.task.check(_table(["one", " "]), [])
    # beside prompts a column that happens to be called so has no meaning
    generating.check(_table(["x"], prompt=["one"], completion=["two"]), [])
