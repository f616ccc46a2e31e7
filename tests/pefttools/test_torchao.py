"""Base variants by torchao: what they store, what a training keeps of it, and what they refuse."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pefttools
from pefttools.bases.packed_tensors import PackedHqq, PackedInt8, group_of
from pefttools.errors import ConfigError
from pefttools.testing import check_method

VARIANTS = ("torchao-int8", "hqq")
KINDS = {"torchao-int8": PackedInt8, "hqq": PackedHqq}
#: bytes for a weight: its bits, and its share of the scales and zeros
BYTES = {"torchao-int8": 1 + 4 / 64, "hqq": 0.5 + 4 / 64}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "method",
    [
        "oft",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("ia3", "prefix", "bottleneck")),
        pytest.param({"name": "lora", "start": "mica"}, marks=pytest.mark.slow),
    ],
)
def test_other_methods(variant: str, method: Any, tiny_bert: str, tmp_path: Path) -> None:
    assert check_method(method, base=tiny_bert, folder=tmp_path, variant=variant) is not None


def _first(base: str, variant: str) -> tuple[nn.Linear, torch.Tensor]:
    """A linear layer and the weight that it was made of."""
    name = "bert.encoder.layer.0.attention.self.query"
    layer, whole = (
        pefttools.wrap(base, "untuned", labels=["a", "b"], variant=one).transformer.get_submodule(name)
        for one in (variant, "float32")
    )
    assert isinstance(layer, nn.Linear)
    return layer, whole.get_parameter("weight").detach()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_as_small_as_it_says_and_near_the_weight(variant: str, tiny_bert: str) -> None:
    layer, whole = _first(tiny_bert, variant)
    packed: Any = layer.weight
    assert type(packed) is KINDS[variant]
    parts = [getattr(packed, name) for name in packed.__tensor_flatten__()[0]]
    assert sum(part.nbytes for part in parts) == pytest.approx(BYTES[variant] * whole.numel(), rel=0.05)
    off = float(torch.linalg.norm(packed.dequantize() - whole) / torch.linalg.norm(whole))
    assert 0 < off < (0.01 if variant == "torchao-int8" else 0.12)
    x = torch.randn(2, 3, whole.shape[1])
    torch.testing.assert_close(layer(x), nn.functional.linear(x, packed.dequantize(), layer.bias))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backward_pass_keeps_no_copy_of_the_weight(variant: str, tiny_bert: str) -> None:
    """torchao's own int8 tensor keeps one for each layer, in the format of the input: nothing would be saved."""
    layer, whole = _first(tiny_bert, variant)
    kept: list[torch.Tensor] = []
    x = torch.randn(2, 3, whole.shape[1], requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = layer(x)
    y.square().sum().backward()
    assert not [tensor for tensor in kept if tensor.numel() == whole.numel()]
    packed: Any = layer.weight
    wanted = torch.autograd.grad(nn.functional.linear(x, packed.dequantize(), layer.bias).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([16, 48, 64, 128, 160]))
def test_four_bits_come_back_as_they_were_packed(seed: int, outputs: int, inputs: int) -> None:
    """Weights that are whole numbers of steps between the least and the largest are kept exactly."""
    group = group_of(inputs)
    assert group is not None and inputs % group == 0
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, 16, (outputs, inputs // group, group), generator=generator)
    steps[..., 0], steps[..., 1] = 0, 15
    weight = ((steps - 7) * 0.25).reshape(outputs, inputs)
    torch.testing.assert_close(PackedHqq.of(weight, group).dequantize(), weight, atol=1e-3, rtol=0)


def test_a_layer_that_no_group_divides_stays_whole() -> None:
    assert [group_of(inputs) for inputs in (24, 100, 16, 96, 4096)] == [None, None, 16, 32, 64]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_it_can_not_pack_is_refused_before_loading(variant: str, tiny_gpt2: str) -> None:
    with pytest.raises(ConfigError, match=f"the variant '{variant}' finds no linear layer in a GPT2"):
        pefttools.wrap(tiny_gpt2, "bottleneck", task={"name": "causal-lm"}, variant=variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_dora_is_refused(variant: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.dora can't be used with the variant '{variant}'"):
        pefttools.wrap(tiny_bert, "lora", labels=["a", "b"], variant=variant, dora=True)


def test_it_says_what_is_missing(tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torchao" else found(name, *rest)
    )
    with pytest.raises(ConfigError, match="needs torchao, which is not installed") as error:
        pefttools.wrap(tiny_bert, "lora", labels=["a", "b"], variant="hqq")
    assert "pip install 'pefttools[torchao]'" in str(error.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_says_what_it_leaves_whole(variant: str, tmp_path: Path) -> None:
    from pefttools.eval.probing.families import make_bench

    base = make_bench("mixtral", tmp_path).base
    with pytest.warns(UserWarning, match=rf"'{variant}' leaves .* GB in float32, in weights that torchao can't store"):
        pefttools.wrap(base, "prompt", task={"name": "causal-lm"}, variant=variant)
