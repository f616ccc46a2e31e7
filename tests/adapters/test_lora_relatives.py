"""KaSA and MonteCLoRA do what their papers' formulas say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

import pefttools
from pefttools.errors import ConfigError
from pefttools.tuned import TunedModel

QUERY = "bert.encoder.layer.0.attention.self.query"


def _wrap(base: str, **method: Any) -> TunedModel:
    torch.manual_seed(0)
    return pefttools.wrap(base, method, labels=["a", "b"], precision="float32")


def _layers(model: TunedModel) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _query(model: TunedModel) -> Any:
    return model.transformer.get_submodule(f"base_model.model.{QUERY}")


def test_kasa_replaces_the_smallest_components(tiny_bert: str) -> None:
    plain: Any = _wrap(tiny_bert, name="untuned").transformer
    weight = plain.get_submodule(QUERY).weight.detach()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    layer = _query(_wrap(tiny_bert, name="kasa", r=4, alpha=8))
    a, b, e = layer.lora_A.default.weight, layer.lora_B.default.weight, layer.lora_diag.default
    with torch.no_grad():
        b.normal_()
        found = layer(torch.eye(64)) - layer.base_layer.bias
    wanted = (u[:, :-4] * s[:-4]) @ v[:-4] + 2.0 * b @ torch.diag(e) @ a
    torch.testing.assert_close(found.T, wanted, atol=1e-5, rtol=0)


def test_kasas_penalty(tiny_bert: str) -> None:
    model = _wrap(tiny_bert, name="kasa", r=4, beta=0.5, gamma=0.25)
    wanted = torch.tensor(0.0)
    for layer in _layers(model):
        a, b, e = layer.lora_A.default.weight, layer.lora_B.default.weight, layer.lora_diag.default
        apart = [torch.linalg.matrix_norm(one - torch.eye(4)) for one in (b.T @ b, a @ a.T)]
        wanted = wanted + 0.5 * (e**2).sum() + 0.25 * (apart[0] + apart[1])
    found = model.spec.method.penalty(model.transformer, model.spec.config)
    torch.testing.assert_close(found, wanted)


def test_where_kasa_cannot_go(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match="can't be used with the variant 'bfloat16': it rewrites the base's weights"):
        pefttools.wrap(tiny_bert, "kasa", labels=["a", "b"], variant="bfloat16")
    with pytest.raises(ConfigError, match=r"kasa.r is 64, but \S+ has only 64 components to replace"):
        _wrap(tiny_bert, name="kasa", r=64)


def test_samples_of_monteclora_surround_its_update(tiny_bert: str) -> None:
    """The mean of many passes is the pass without samples, and they are of the declared size."""
    model = _wrap(tiny_bert, name="monteclora", r=4, alpha=8, scale=0.01, samples=2)
    layer, x = _query(model), torch.eye(64)
    with torch.no_grad():
        layer.lora_B.default.weight.normal_()
        still = layer.eval()(x)
        plain = layer.base_layer(x) + 2.0 * x @ layer.lora_A.default.weight.T @ layer.lora_B.default.weight.T
        torch.testing.assert_close(still, plain)
        layer.train()
        passes = torch.stack([layer(x) for _ in range(400)])
    spread = float((passes - still).std())
    assert spread > 0.01
    assert float((passes.mean(0) - still).std()) < 3 * spread / 400**0.5


def test_monteclora_trains_how_far_its_samples_spread(tiny_bert: str) -> None:
    model = _wrap(tiny_bert, name="monteclora", r=4)
    model.train()
    ids = torch.randint(5, 1000, (2, 8))
    model(input_ids=ids, attention_mask=torch.ones_like(ids), targets=torch.tensor([0, 1]))
    penalty = model.spec.method.penalty(model.transformer, model.spec.config)
    assert penalty is not None
    penalty.backward()
    for name, parameter in model.named_parameters():
        if name.endswith("_prior"):
            assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name
