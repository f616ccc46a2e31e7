"""Averages of weights, and learning rates that decay from block to block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttools
from pefttools.training.averaging import AveragedWeights
from pefttools.training.optimizer import depths_of, parameter_groups
from pefttools.training.rates import Rates
from tests.interrupted import train_in_two_parts
from tests.pefttools.objectives.models import classifier


def test_the_average_is_that_of_the_weights(tiny_bert: str) -> None:
    model = classifier(tiny_bert)
    (name, weight), *_ = model.trained().items()
    start = weight.detach().clone()
    averaged = AveragedWeights(model, 0.5)
    wanted = start.clone()
    for step, value in enumerate((1.0, 2.0, 4.0), 1):
        with torch.no_grad():
            weight.fill_(value)
        averaged.update(step)
        keep = min(0.5, (1 + step) / (10 + step))
        wanted = keep * wanted + (1 - keep) * value
    torch.testing.assert_close(averaged.state[name], wanted)
    with averaged.in_place():
        assert torch.equal(weight, averaged.state[name])
    assert torch.equal(weight, torch.full_like(weight, 4.0))
    averaged.put()
    assert torch.equal(weight, averaged.state[name])


def _recipe(base: str, intents: dict[str, str], output: Path, **training: Any) -> dict[str, Any]:
    return {
        "base": base, "method": "lora", "storage": "float32",
        "data": {"train": intents["train"], "validation": intents["validation"], "limit": {"train": 48}},
        "training": {"max_steps": 6, "batch_size": 8, "precision": "float32", "evaluations": 3, **training},
        "output": str(output),
    }  # fmt: skip


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_the_average_is_kept_and_a_training_that_goes_on_has_the_same(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"averaging": 0.9, "keep_best": False}
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "plain", keep_best=False))
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "whole", **options))
    plain, whole = _weights(tmp_path / "plain"), _weights(tmp_path / "whole")
    assert all(not torch.equal(whole[name], plain[name]) for name in plain)
    train_in_two_parts(_recipe(tiny_bert, intents, tmp_path / "parts", **options), monkeypatch, until=4)
    for name, tensor in _weights(tmp_path / "parts").items():
        torch.testing.assert_close(tensor, whole[name])


def test_blocks_are_counted_from_above() -> None:
    names = ["encoder.layer.0.lora_A", "encoder.layer.11.lora_A", "decoder.block.0.q", "decoder.block.3.q",
             "embeddings.word.weight", "pooler.weight"]  # fmt: skip
    assert depths_of(names) == {
        "encoder.layer.0.lora_A": 11, "encoder.layer.11.lora_A": 0, "decoder.block.0.q": 3, "decoder.block.3.q": 0,
        "embeddings.word.weight": 12,
    }  # fmt: skip
    assert depths_of([]) == {}


@pytest.mark.parametrize("method", ["full", "lora", "bottleneck"])
def test_lower_blocks_have_lower_rates(method: str, tiny_bert: str) -> None:
    model = classifier(tiny_bert, method=method)
    named = {id(p): name for name, p in model.named_parameters()}
    rates = {
        named[id(p)]: group["lr"]
        for group in parameter_groups(model, Rates(1.0, 7.0), 0.0, 0.5)
        for p in group["params"]
    }
    for name, rate in rates.items():
        wanted = 7.0 if name in model.of_head() else 0.5 if ".layer.0." in name else 0.25 if "embed" in name else 1.0
        assert rate == wanted, name
    assert any(".layer.0." in name for name in rates) and any(".layer.1." in name for name in rates)
