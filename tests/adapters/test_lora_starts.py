"""Where LoRA's factors begin, and LoRA-FA's gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

import pefttools
from pefttools.errors import ConfigError
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.fit import fit
from pefttools.training.optimizer import parameter_groups
from pefttools.training.prepare import prepare
from pefttools.training.rates import Rates

LABELS = ["a", "b"]
ROWS = [{"text": f"text number {n} of kind {LABELS[n % 2]}", "label": LABELS[n % 2]} for n in range(40)]


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _batch(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.tokenizer([row["text"] for row in ROWS], padding=True, return_tensors="pt"))


@pytest.mark.parametrize("start", ["zero", "gaussian", "olora", "pissa", "orthogonal", "eva"])
@pytest.mark.filterwarnings("ignore:with these options")
def test_the_base_answers_as_before(start: str, tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, precision="float32", start=start)
    plain = pefttools.wrap(tiny_bert, "untuned", labels=LABELS, precision="float32")
    torch.testing.assert_close(model.run_batch(_batch(model)), plain.run_batch(_batch(plain)), atol=1e-5, rtol=1e-5)


def test_eva_begins_at_the_principal_directions_of_the_inputs(tiny_bert: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe = Recipe.model_validate(
        {"base": tiny_bert, "method": {"name": "lora", "r": 3, "start": "eva"}, "output": str(tmp_path / "a"),
         "data": {"train": str(path), "validation": 0.2},
         "training": {"max_steps": 1, "batch_size": 40, "learning_rate": 1e-30, "weight_decay": 0.0,
                      "precision": "float32"}}
    )  # fmt: skip
    prepared = prepare(recipe)
    model = fit(prepared, SilentReporter(), tmp_path / "work").model
    seen: dict[int, torch.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, inputs: seen.update({id(module): inputs[0]}))
        for layer in _layers(model)
    ]
    rows = prepared.examples.train
    model.run([rows[index] for index in range(len(rows))])
    for handle in handles:
        handle.remove()
    for layer in _layers(model):
        states = seen[id(layer)].flatten(0, -2).double()
        directions = torch.linalg.svd(states, full_matrices=False).Vh[:3]
        a = layer.lora_A["default"].weight.detach().double()
        torch.testing.assert_close((a @ directions.T).abs(), torch.eye(3, dtype=torch.float64), atol=2e-3, rtol=0)
        assert float(layer.lora_B["default"].weight.detach().abs().max()) < 1e-20


def test_directions_that_are_not_there_are_refused(tiny_bert: str) -> None:
    with pytest.warns(UserWarning, match="starts from the rows that are trained on"):
        model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, precision="float32", start="eva", r=16)
    batch = dict(model.tokenizer(["short"], return_tensors="pt"))
    with pytest.raises(ConfigError, match="fewer than 16 directions"):
        model.spec.method.prepare(model.transformer, model.spec.config, [lambda: model(**batch)])


def test_lora_plus_trains_b_faster(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, b_rate=16)
    rates = {id(p): group["lr"] for group in parameter_groups(model, Rates(1e-3, 5e-3), 0.0) for p in group["params"]}
    for layer in _layers(model):
        assert rates[id(layer.lora_A["default"].weight)] == 1e-3
        assert rates[id(layer.lora_B["default"].weight)] == pytest.approx(16e-3)


def test_lora_fa_takes_the_nearest_step_to_the_whole_gradient(tiny_bert: str) -> None:
    """Of the gradient of the weight, what lies in the rows of A: ``scale g_B A = G A^T (A A^T)^-1 A``."""
    model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, precision="float32", r=4, alpha=10, frozen_a=True)
    layers = _layers(model)
    for layer in layers:
        layer.base_layer.weight.requires_grad_(True)
    model.eval()
    model(**_batch(model), targets=torch.tensor([n % 2 for n in range(40)])).backward()
    for layer in layers:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert not a.requires_grad and a.grad is None
        whole = layer.base_layer.weight.grad
        nearest = whole @ a.T @ torch.linalg.inv(a @ a.T) @ a
        torch.testing.assert_close(2.5 * b.grad @ a, nearest, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pissa": True, "start": "olora"}, "lora.pissa and lora.start=olora are mutually exclusive"),
        ({"dora": True, "start": "olora"}, "mutually exclusive"),
        ({"dora": True, "frozen_a": True}, "mutually exclusive"),
        ({"b_rate": 4.0, "frozen_a": True}, "mutually exclusive"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pefttools.wrap(tiny_bert, "lora", labels=LABELS, **options)


def test_olora_needs_a_float_base(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"lora\.start=olora can't be used on the base variant 'nf4'"):
        pefttools.wrap(tiny_bert, "lora", labels=LABELS, variant="nf4", start="olora")
