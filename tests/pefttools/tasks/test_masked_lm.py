"""Masked language modelling: what is hidden, when, and what it is worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import pefttools
from pefttools.errors import BaseModelError, ConfigError
from pefttools.tasks.task import IGNORE
from pefttools.testing.rows import table_of_rows
from tests.pefttools.tasks.samples import SAMPLES

ROWS = SAMPLES["masked-lm"][1]


@pytest.fixture(scope="module")
def model(tiny_bert: str) -> pefttools.TunedModel:
    return pefttools.wrap(tiny_bert, "lora", task="masked-lm", precision="float32")


def _batch(model: pefttools.TunedModel, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    task = model.spec.task
    return task.collate(task.encode(table_of_rows(rows, task), model.processor, []), model.processor)


def test_what_is_hidden_at_evaluation_follows_from_the_text_alone(model: pefttools.TunedModel) -> None:
    alone, among = _batch(model, ROWS[3:4]), _batch(model, ROWS[::-1])
    size = alone["input_ids"].shape[1]
    for name in ("input_ids", "labels"):
        assert torch.equal(among[name][-4, :size], alone[name][0])
    assert (alone["labels"] != IGNORE).any()


def test_other_tokens_are_hidden_each_time_that_a_text_is_trained_on(model: pefttools.TunedModel) -> None:
    task = model.spec.task
    examples = task.encode(table_of_rows(ROWS, task), model.processor, [])
    torch.manual_seed(1)
    one, other = (task.training_batch(model, examples)["labels"] for _ in range(2))
    assert not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(task.training_batch(model, examples)["labels"], one)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["one", "two", "three", "apples", "unbelievable"]), min_size=1, max_size=30))
def test_hidden_tokens_are_words_and_their_labels_the_true_ones(model: pefttools.TunedModel, words: list[str]) -> None:
    text = " ".join(words)
    batch = _batch(model, [{"text": text}])
    true = torch.tensor(model.tokenizer(text)["input_ids"])
    learned = batch["labels"][0] != IGNORE
    assert int(learned.sum()) == max(1, round(0.15 * (len(true) - 2)))
    assert not learned[0] and not learned[-1], "what begins and ends a text is not hidden"
    assert torch.equal(batch["labels"][0][learned], true[learned])
    assert torch.equal(batch["input_ids"][0][~learned], true[~learned])


def test_most_of_what_is_hidden_is_the_mask(model: pefttools.TunedModel) -> None:
    rows = [{"text": " ".join(f"word{number}" for number in range(start, start + 40))} for start in range(0, 2000, 40)]
    batch = _batch(model, rows)
    learned = batch["labels"] != IGNORE
    masked = float((batch["input_ids"][learned] == model.tokenizer.mask_token_id).float().mean())
    same = float((batch["input_ids"][learned] == batch["labels"][learned]).float().mean())
    assert masked == pytest.approx(0.8, abs=0.05) and same == pytest.approx(0.1, abs=0.04)


def test_perplexity_is_that_of_the_hidden_tokens(model: pefttools.TunedModel) -> None:
    task = model.spec.task
    examples = task.encode(table_of_rows(ROWS, task), model.processor, [])
    found = task.evaluate(model, examples, batch_size=5)
    batch = _batch(model, ROWS)
    labels = batch.pop("labels")
    logits = model.run_batch(batch).double()
    loss = float(cross_entropy(logits[labels != IGNORE], labels[labels != IGNORE]))
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    right = float((logits.argmax(-1) == labels)[labels != IGNORE].double().mean())
    assert found.metrics["token_accuracy"] == pytest.approx(right, abs=1e-9)


def test_masks_of_a_text_are_filled(model: pefttools.TunedModel) -> None:
    (found,) = pefttools.predict(model, ["one [MASK] three [MASK]"])
    ids = torch.tensor([model.tokenizer("one [MASK] three [MASK]")["input_ids"]])
    logits = model.run_batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]
    best = logits[ids[0] == model.tokenizer.mask_token_id].argmax(-1).tolist()
    assert found["tokens"] == model.tokenizer.convert_ids_to_tokens(best)
    assert "[MASK]" not in found["prediction"] and len(found["scores"]) == 2


def test_a_language_head_that_a_base_lacks_is_trained_and_kept(model: pefttools.TunedModel, tmp_path: Path) -> None:
    heads = model.spec.target.head_modules
    assert heads == ("cls.predictions.transform.LayerNorm", "cls.predictions.transform.dense")
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert trained and all("cls.predictions.transform" in name for name in trained), "the embeddings are tied to it"
    with pytest.raises(ConfigError, match="lacks weights"):
        pefttools.wrap(model.spec.base.id, "lora", task={"name": "masked-lm", "head": "model"})


def test_a_base_with_a_head_of_its_own_keeps_it(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    from tests.conftest import save_base

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    base = save_base(BertForMaskedLM(config), tmp_path / "base")
    wrapped = pefttools.wrap(base, "lora", task={"name": "masked-lm", "head": "model"}, precision="float32")
    assert wrapped.spec.target.head_modules == ()
    pefttools.save(wrapped, tmp_path / "artifact")
    pefttools.merge(tmp_path / "artifact", tmp_path / "merged")
    assert "fill-mask" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")


def test_a_tokenizer_without_a_mask_is_refused(tiny_llama: str) -> None:
    with pytest.raises(BaseModelError):
        pefttools.wrap(tiny_llama, "lora", task="masked-lm")
