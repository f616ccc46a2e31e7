"""Virtual adversarial training and self-training learn from rows without labels too."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttools
from pefttools.errors import ConfigError, DataError
from pefttools.objectives.step import Step
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.prepare import build_model, prepare
from pefttools.training.unlabelled import Unlabelled
from tests.conftest import MINILM
from tests.interrupted import train_in_two_parts
from tests.pefttools.objectives.models import batch_of, classifier

TEXTS = ["where is my card", "I lost it", "send the money back to the old account", "no", "what is the rate", "my pin"]


def _file(path: Path, texts: list[str], labels: bool) -> str:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"] if labels else ["text"])
        writer.writerows([text, f"l{number % 2}"] if labels else [text] for number, text in enumerate(texts))
    return str(path)


def _recipe(base: str, folder: Path, name: str = "a", **fields: Any) -> dict[str, Any]:
    rows = _file(folder / "rows.csv", TEXTS * 2, True)
    more = _file(folder / "more.csv", [f"{text} {number}" for number, text in enumerate(TEXTS * 2)], False)
    return {
        "base": base, "method": "lora", "data": {"train": rows, "validation": rows}, "storage": "float32",
        "objective": {"name": "vat", "unlabelled": more}, "output": str(folder / name),
        "training": {"max_steps": 6, "batch_size": 4, "precision": "float32", "evaluations": 3, "learning_rate": 1e-2,
                     "keep_best": False},
        **fields,
    }  # fmt: skip


def test_batches_follow_from_their_number_and_all_rows_come_before_any_comes_again(
    tiny_bert: str, tmp_path: Path
) -> None:
    prepared = prepare(Recipe.model_validate(_recipe(tiny_bert, tmp_path)))
    model = build_model(prepared)
    (table,) = prepared.unlabelled
    assert table is not None and prepared.digests()["unlabelled rows 1"] == table.digest()
    examples = prepared.task.encode(table, model.processor, prepared.labels, labelled=False)
    batches = Unlabelled(model, examples, seed=3)
    texts = [model.processor.batch_decode(batches(n, 5)["input_ids"], skip_special_tokens=True) for n in range(6)]
    drawn = [text for batch in texts for text in batch]
    assert len(set(drawn[:12])) == len(set(drawn[12:24])) == 12 and drawn[:12] != drawn[12:24]
    again = Unlabelled(model, examples, seed=3)
    assert torch.equal(again(4, 5)["input_ids"], batches(4, 5)["input_ids"])
    assert "labels" not in batches(0, 5)


def _weights(folder: Path) -> torch.Tensor:
    state = load_file(folder / "adapter_model.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("name", ["self-training", pytest.param("vat", marks=pytest.mark.slow)])
def test_they_are_learned_from_and_a_training_that_goes_on_sees_the_same(
    name: str, tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"name": name, "unlabelled": str(tmp_path / "more.csv")}
    if name == "self-training":
        more["threshold"] = 0.5
    pefttools.train(_recipe(tiny_bert, tmp_path, "whole", objective=more))
    pefttools.train(_recipe(tiny_bert, tmp_path, "labelled", objective="vat" if name == "vat" else []))
    whole = _weights(tmp_path / "whole")
    assert not torch.allclose(whole, _weights(tmp_path / "labelled"))
    train_in_two_parts(_recipe(tiny_bert, tmp_path, "parts", objective=more), monkeypatch, until=4)
    torch.testing.assert_close(_weights(tmp_path / "parts"), whole)


def test_rows_that_do_not_fit_are_refused(tiny_bert: str, tiny_llama: str, tmp_path: Path) -> None:
    recipe = _recipe(tiny_bert, tmp_path)
    (tmp_path / "more.csv").write_text("text\n\n  \n")
    with pytest.raises(DataError, match=r"more\.csv"):
        pefttools.train(recipe)
    recipe = _recipe(tiny_llama, tmp_path, task="causal-lm")
    with pytest.raises(ConfigError, match="needs a task with one label per row"):
        pefttools.train(recipe)


def test_only_confident_answers_are_learned(tiny_bert: str) -> None:
    """The formula, written out; without dropout both passes answer alike."""
    model = classifier(
        tiny_bert, {"name": "self-training", "unlabelled": "somewhere", "threshold": 0.35, "weight": 2.0}
    )
    model.eval()  # without dropout
    batch = batch_of(model)
    targets = batch.pop("targets")
    step = Step(model, batch, targets, None, model.objectives)
    found = model.objectives[0].term(step)
    p = model.task.logits(model.transformer, model.head, batch).detach().softmax(-1)
    sure = p.max(-1).values >= 0.35
    assert 0 < int(sure.sum()) <= len(targets)
    torch.testing.assert_close(found, -2.0 * (p.max(-1).values.log() * sure).sum() / len(targets))


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False])
def test_how_many_confident_answers_were_wrong_is_said(labelled: bool, intents: dict[str, str], tmp_path: Path) -> None:
    """By labels that the file has after all; they are not learned, though all of them are another label's."""
    with Path(intents["train"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:60]
    names = sorted({row["label"] for row in rows})
    path = tmp_path / "more.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"] if labelled else ["text"])
        for row in rows:
            other = names[(names.index(row["label"]) + 1) % len(names)]
            writer.writerow([row["text"], other] if labelled else [row["text"]])
    said: list[str] = []

    class Listening(SilentReporter):
        def event(self, text: str) -> None:
            said.append(text)

    recipe = {
        "base": MINILM, "method": "lora", "data": {**intents, "limit": {"train": 60}}, "output": str(tmp_path / "a"),
        "objective": {"name": "self-training", "unlabelled": str(path), "threshold": 0.6},
        "training": {"epochs": 3, "batch_size": 12, "evaluations": 1},
    }  # fmt: skip
    stored = pefttools.train(recipe, reporter=Listening())
    assert stored is not None and stored.test is not None and stored.test.metrics["accuracy"] > 0.8
    (line,) = [one for one in said if one.startswith("self-training: ")]
    sure = int(line.split()[1])
    assert 30 < sure <= 60 and "60 rows without labels are answered with confidence" in line
    if labelled:
        wrong = int(line.partition("confidence, ")[2].split()[0])
        assert wrong > 0.8 * sure, "the labels of the file are wrong, and the model is not"
    else:
        assert line.endswith("confidence")
