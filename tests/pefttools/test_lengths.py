"""The longest text of a task, and the positions that its base has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.bases import locate_base
from pefttools.bases.positions import text_limit
from pefttools.errors import ConfigError
from pefttools.recipe import Recipe
from pefttools.training.prepare import prepare
from tests.conftest import MINILM, save_base


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A RoBERTa with 32 positions, of which the first stands for padding."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=30522,
        max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    return save_base(RobertaModel(config), tmp_path_factory.mktemp("roberta"))


def test_limits(roberta: str, tiny_gpt2: str) -> None:
    assert text_limit(locate_base(MINILM)) == 512
    assert text_limit(locate_base(roberta)) == 31
    assert text_limit(locate_base(tiny_gpt2)) == 128


def test_the_limit_is_what_the_model_takes(roberta: str) -> None:
    model = pefttools.wrap(
        roberta, "lora", task={"name": "sequence-classification", "max_length": 31}, labels=["a", "b"]
    )
    ids = torch.full((1, 31), 7)
    assert torch.isfinite(model.run_batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)})).all()
    with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
        model.run_batch({"input_ids": torch.full((1, 32), 7), "attention_mask": torch.ones(1, 32).long()})


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_virtual_tokens_are_counted(method: str, intents: dict[str, str], tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"base": MINILM, "method": method, "data": intents, "output": str(tmp_path / "a")}
    task: dict[str, Any] = {"name": "sequence-classification", "max_length": 512}
    with pytest.raises(ConfigError, match=r"task.max_length=512 and 20 virtual tokens are more than the 512 positions"):
        prepare(Recipe(**recipe, task=task))
    assert prepare(Recipe(**recipe, task={**task, "max_length": 492})).task.options.max_length == 492
    with pytest.raises(ConfigError, match=r"Set task.max_length=492 or less"):
        pefttools.wrap(MINILM, method, task=task, labels=["a", "b"])


@pytest.mark.parametrize(
    ("method", "task", "note"),
    [
        ("lora", {"system": "be kind", "plain": "joined"}, "task.system has no effect: there is no chat template"),
        ("lora", {"train_on": "all"}, "task.train_on has no effect: a prompt has one answer"),
        ("lora", {"generate": False, "max_new_tokens": 9}, "task.max_new_tokens has no effect: task.generate is off"),
        ({"name": "lora", "dora": True, "lean": True}, {}, "lora.lean has no effect: with DoRA"),
        ({"name": "full", "master_weights": False}, {}, "full.master_weights has no effect"),
        ("lora", {}, None),
    ],
)
def test_options_without_effect_are_said(
    tiny_llama: str, tmp_path: Path, method: Any, task: dict[str, Any], note: str | None
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f'{{"prompt": "a{n}", "completion": "b"}}\n' for n in range(20)))
    prepared = prepare(
        Recipe(base=tiny_llama, method=method, task={"name": "causal-lm", **task}, data={"train": str(file)},
               output=tmp_path / "a")
    )  # fmt: skip
    assert prepared.notes == [] if note is None else any(line.startswith(note) for line in prepared.notes)


def test_generated_tokens_are_counted_and_a_default_gives_way(tiny_gpt2: str, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f'{{"prompt": "a{n}", "completion": "b"}}\n' for n in range(20)))
    recipe = {"base": tiny_gpt2, "method": "lora", "data": {"train": str(file)}, "output": str(tmp_path / "a")}
    with pytest.raises(ConfigError, match=r"max_length=128 and 32 generated tokens are more than the 128 positions"):
        prepare(Recipe(**recipe, task={"name": "causal-lm", "max_length": 128}))
    prepared = prepare(Recipe(**recipe, task="causal-lm"))
    assert prepared.task.options.max_length == 96
    assert "task.max_length is lowered to 96" in prepared.notes[0]
    assert prepare(Recipe(**recipe, task={"name": "causal-lm", "generate": False})).task.options.max_length == 128
