"""What weight decay pulls parameters towards: AdamW without gradients leaves nothing but the decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.fit import fit
from pefttools.training.optimizer import decay_target, decay_to_their_values, parameter_groups
from pefttools.training.prepare import prepare
from pefttools.training.rates import Rates
from pefttools.tuned import TunedModel

RATE, DECAY, STEPS = 0.1, 0.5, 10
#: share of the distance from its value that a parameter keeps
KEPT = (1 - RATE * DECAY) ** STEPS


def _wrap(base: str, method: dict[str, Any], head: str = "mean") -> TunedModel:
    task = {"name": "sequence-classification", "head": head}
    return pefttools.wrap(base, method, task=task, labels=["a", "b"], precision="float32")


def _decayed(model: TunedModel, name: str = "adamw") -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The trained parameters, moved to 3 first, and what is left of them after steps with gradients of zero."""
    groups = parameter_groups(model, Rates(RATE, RATE), DECAY)
    optimizer: torch.optim.Optimizer
    if name == "adamw":
        optimizer = torch.optim.AdamW(groups, fused=True)
    else:
        import bitsandbytes.optim as optim

        optimizer = optim.AdamW8bit(groups)
    decay_to_their_values(optimizer, model, DECAY)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        torch.nn.init.constant_(parameter, 3.0)
    before = {name: p.detach().clone() for name, p in trained.items()}
    for _ in range(STEPS):
        for parameter in trained.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return {name: (before[name], p.detach()) for name, p in trained.items()}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_factors_of_ia3_decay_to_one(tiny_bert: str, optimizer: str) -> None:
    found = _decayed(_wrap(tiny_bert, {"name": "ia3"}), optimizer)
    factors = {name: pair for name, pair in found.items() if "ia3_l" in name}
    assert len(factors) == 6
    for before, after in factors.values():
        torch.testing.assert_close(after, 1 + (before - 1) * KEPT, rtol=1e-5, atol=0)
    before, after = next(pair for name, pair in found.items() if name.startswith("head.") and pair[0].ndim == 2)
    torch.testing.assert_close(after, before * KEPT, rtol=1e-5, atol=0)


def test_weight_decay_of_zero_changes_nothing(tiny_bert: str) -> None:
    model = _wrap(tiny_bert, {"name": "ia3"})
    optimizer = torch.optim.AdamW(parameter_groups(model, Rates(RATE, RATE), 0.0))
    decay_to_their_values(optimizer, model, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(bool((p == 1).all()) for name, p in model.named_parameters() if "ia3_l" in name)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "full"},
        {"name": "bitfit"},
        {"name": "lora", "r": 4, "dora": True},
        {"name": "bottleneck", "size": 8},
        {"name": "prompt", "length": 4},
    ],
    ids=lambda method: str(method["name"]),
)
def test_matrices_decay_to_zero_biases_and_norms_do_not(tiny_bert: str, method: dict[str, Any]) -> None:
    for name, (before, after) in _decayed(_wrap(tiny_bert, method)).items():
        still = name.endswith((".bias", "bias_delta")) or "LayerNorm" in name or "lora_magnitude_vector" in name
        torch.testing.assert_close(after, before if still else before * KEPT, rtol=1e-5, atol=0, msg=name)


def test_pissa_does_not_decay_since_its_factors_hold_weights_of_the_base(tiny_bert: str) -> None:
    for name, (before, after) in _decayed(_wrap(tiny_bert, {"name": "lora", "r": 4, "pissa": True})).items():
        if ".lora_" in name:
            torch.testing.assert_close(after, before, rtol=0, atol=0, msg=name)


def test_the_rules_for_biases_and_norms_are_those_of_transformers(tiny_bert: str) -> None:
    from transformers import Trainer

    model = _wrap(tiny_bert, {"name": "full"})
    theirs = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    ours = {name for name, p in model.named_parameters() if decay_target(model, name, p) is not None}
    assert ours == theirs


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_training_keeps_factors_of_ia3_near_one(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], optimizer: str
) -> None:
    recipe = Recipe.model_validate(
        {
            "base": tiny_bert,
            "method": "ia3",
            "task": {"name": "sequence-classification", "head": "mean"},
            "data": {**intents, "limit": {"train": 64, "validation": 16}},
            "training": {
                "epochs": 12,
                "batch_size": 16,
                "learning_rate": 0.05,
                "weight_decay": 1.0,
                "evaluations": 1,
                "optimizer": optimizer,
            },
            "output": str(tmp_path / "a"),
        }
    )
    fitted = fit(prepare(recipe), SilentReporter(), tmp_path / "work")
    factors = [p.detach().flatten() for name, p in fitted.model.named_parameters() if "ia3_l" in name]
    assert 0.9 < float(torch.cat(factors).mean()) < 1.1
