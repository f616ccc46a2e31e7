"""Base variants: what they compute in."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn

import pefttools
from pefttools.training.precision import hardware_dtype
from pefttools.tuned import TunedModel


def _wrapped(base: str, precision: str) -> TunedModel:
    return pefttools.wrap(base, "head", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"],
                          variant="nf4", precision=precision)  # fmt: skip


def _layers(model: nn.Module) -> dict[str, Linear4bit]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nf4_computes_in_the_precision_that_was_asked_for(precision: str, tiny_bert: str) -> None:
    model = _wrapped(tiny_bert, precision).eval()
    example = [{"input_ids": list(range(1000, 1020))}]
    found = model.run(example)
    for name, layer in _layers(model).items():
        plain = nn.Linear(layer.in_features, layer.out_features)
        plain.weight.data = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        plain.bias.data = layer.bias.data.float()
        model.get_submodule(name.rpartition(".")[0])._modules[name.rpartition(".")[2]] = plain
    model.autocast = None
    difference = float((model.run(example) - found).abs().max())
    assert difference < 0.1
    assert (difference < 1e-5) == (precision == "float32"), "bfloat16 has 8 bits and can't be as near"


def test_nf4_in_a_pool_computes_in_what_the_hardware_is_fast_in(tiny_bert: str) -> None:
    pool = pefttools.AdapterPool(tiny_bert, variant="nf4", device="cpu")
    assert {layer.compute_dtype for layer in _layers(pool.served.model).values()} == {hardware_dtype()}
    assert torch.float32 == hardware_dtype(torch.device("meta"))
