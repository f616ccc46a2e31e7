"""LoRA's own forward and backward pass against PEFT's layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.lora import Linear
from peft.tuners.lora.bnb import Linear4bit as Lora4bit
from torch import nn

from pefttools.adapters.lora_function import keep_less
from pefttools.planning.counter import StorageCounter


def _pair(base: nn.Linear, rank: int, dropout: float = 0.0, dora: bool = False) -> tuple[Any, Any]:
    """The same layer twice: as PEFT has it, and with our functions."""
    layers = []
    for _ in range(2):
        torch.manual_seed(1)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, use_dora=dora)
        kind = Lora4bit if isinstance(base, Linear4bit) else Linear
        layer = kind(base, adapter_name="default", config=config, r=rank, lora_alpha=2 * rank, lora_dropout=dropout)
        nn.init.normal_(layer.lora_B["default"].weight)
        layers.append(layer.requires_grad_(False))
        for part in (layer.lora_A, layer.lora_B):
            part.float().requires_grad_(True)
    plain, lean = layers
    keep_less(lean)
    return plain, lean


def _results(layer: Any, x: torch.Tensor, dtype: torch.dtype | None, frozen_input: bool = False) -> list[torch.Tensor]:
    """Output and gradients, of the input too unless it is frozen."""
    torch.manual_seed(0)
    x = x.detach().clone().requires_grad_(not frozen_input)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        # Not a leaf, as in a model; twice, as layers that read the same input share it.
        out = layer(x * 1) + layer(x * 1)
    out.float().square().mean().backward()
    gradients = [p.grad for p in layer.parameters() if p.requires_grad]
    layer.zero_grad()
    return [out.detach(), *gradients, *([] if frozen_input else [x.grad])]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3), tokens=st.integers(1, 9), read=st.integers(1, 40), written=st.integers(1, 40),
    rank=st.integers(1, 8), bias=st.booleans(), dropout=st.sampled_from([0.0, 0.3]), flat=st.booleans(),
    frozen_input=st.booleans(),
)  # fmt: skip
def test_equal_in_float32(
    rows: int, tokens: int, read: int, written: int, rank: int, bias: bool, dropout: float, flat: bool,
    frozen_input: bool,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    plain, lean = _pair(nn.Linear(read, written, bias=bias), rank, dropout)
    x = torch.randn(rows * tokens, read) if flat else torch.randn(rows, tokens, read)
    for ours, theirs in zip(_results(lean, x, None, frozen_input), _results(plain, x, None, frozen_input), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_equal_up_to_rounding_in_16_bit(weights: torch.dtype, autocast: bool) -> None:
    plain, lean = _pair(nn.Linear(48, 32, bias=True).to(weights), 4)
    x = torch.randn(2, 7, 48, dtype=weights)
    dtype = torch.bfloat16 if autocast else None
    for ours, theirs in zip(_results(lean, x, dtype), _results(plain, x, dtype), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_on_four_bits(dropout: float) -> None:
    base = Linear4bit(64, 128, quant_type="nf4", compute_dtype=torch.float32)
    base.weight.data = torch.randn(128, 64)
    plain, lean = _pair(base.to("cpu"), 4, dropout)
    x = torch.randn(2, 5, 64)
    for ours, theirs in zip(_results(lean, x, None), _results(plain, x, None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "autocast", "dropout"),
    [(torch.float32, True, 0.0), (torch.bfloat16, False, 0.0), (torch.float32, False, 0.1)],
)
def test_keeps_less(weights: torch.dtype, autocast: bool, dropout: float) -> None:
    """Of a copied weight, of float32 copies of the input, of dropout's noise."""
    kept = []
    for layer in _pair(nn.Linear(256, 64).to(weights), 4, dropout):
        x = torch.randn(64, 256, dtype=weights, requires_grad=True)
        counter = StorageCounter(torch.device("cpu"))
        for tensor in (x, *layer.parameters()):
            counter.track(tensor, "weights")
        with counter, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer(x)
        kept.append(counter.now["other"] - out.untyped_storage().nbytes())
    assert kept[1] < 0.4 * kept[0]


def test_others_go_on_as_they_were() -> None:
    """DoRA, merged and switched off layers, and no gradients."""
    x = torch.randn(3, 16)
    plain, lean = _pair(nn.Linear(16, 16), 2, dora=True)
    for ours, theirs in zip(_results(lean, x, None), _results(plain, x, None), strict=True):
        torch.testing.assert_close(ours, theirs)
    plain, lean = _pair(nn.Linear(16, 16), 2)
    with torch.no_grad():
        torch.testing.assert_close(lean(x), plain(x), rtol=0, atol=0)
    wanted = plain(x)
    lean.merge()
    torch.testing.assert_close(lean(x), wanted)
    lean.unmerge()
    lean.enable_adapters(False)
    torch.testing.assert_close(lean(x), lean.base_layer(x))
