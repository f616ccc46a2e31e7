"""LoRA on mixtures of experts: one rule for all of them, and the option that adapts the routed experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import pefttools
from pefttools.errors import ConfigError, TargetError
from tests.families import make_family

MIXTURES = ("mixtral", "qwen3-moe", "deepseek")
VARIANTS = ("float32", "bfloat16", "int8", "nf4")
TASK = {"name": "causal-lm", "max_length": 64}
EXPERTS = {"name": "lora", "r": 2, "experts": True}
IDS = torch.tensor([[101, 2003, 2026, 4003, 102, 999, 2500], [7, 8, 9, 2999, 101, 4003, 5]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def _wrap(base: str, method: Any, variant: str) -> pefttools.TunedModel:
    return pefttools.wrap(base, method, task=TASK, variant=variant, precision="float32", seed=3)


def _trained(model: pefttools.TunedModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _moved(model: pefttools.TunedModel) -> pefttools.TunedModel:
    """As after a training: no factor is zero."""
    generator = torch.Generator().manual_seed(5)
    for parameter in _trained(model).values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.filterwarnings("ignore:lora.targets")
@pytest.mark.parametrize("family", MIXTURES)
def test_all_linear_means_the_linear_layers_on_every_base(family: str, tmp_path: Path) -> None:
    """PEFT would leave DeepSeek's shared experts and adapt its routed ones, and do nothing of the kind to Mixtral."""
    base = make_family(family, tmp_path / "base")
    adapted = [sorted(_trained(_wrap(base, {"name": "lora", "r": 2}, variant))) for variant in VARIANTS]
    assert all(names == adapted[0] for names in adapted)
    assert not [name for name in adapted[0] if ".experts." in name]
    dense = [name for name in adapted[0] if "mlp.gate_proj" in name or "shared_experts.gate_proj" in name]
    assert bool(dense) == (family == "deepseek")


@pytest.mark.filterwarnings("ignore:lora.targets")
def test_an_adapter_of_shared_experts_is_loaded_as_it_was_trained(tmp_path: Path) -> None:
    base = make_family("deepseek", tmp_path / "base")
    model = _moved(_wrap(base, {"name": "lora", "r": 2}, "float32"))
    pefttools.save(model, tmp_path / "adapter")
    wanted = model.run_batch(BATCH)
    assert torch.equal(pefttools.load(tmp_path / "adapter").run_batch(BATCH), wanted)
    pool = pefttools.AdapterPool(base, device="cpu")
    pool.load("one", tmp_path / "adapter")
    assert pool.resident == ["one"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", MIXTURES)
def test_routed_experts_are_adapted_by_an_option(family: str, variant: str, tmp_path: Path) -> None:
    base = make_family(family, tmp_path / "base")
    model = _moved(_wrap(base, EXPERTS, variant))
    experts = [name for name in _trained(model) if ".experts." in name]
    assert len(experts) == (4 if family == "deepseek" else 8), "two factors of two weights in each mixture"
    wanted = model.run_batch(BATCH)
    assert torch.equal(model.run_batch(BATCH), wanted), "an update that is left on the weight would be added twice"
    pefttools.save(model, tmp_path / "adapter")
    assert torch.equal(pefttools.load(tmp_path / "adapter").run_batch(BATCH), wanted)
    model.train()
    model(**BATCH, targets=IDS).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in _trained(model).values())


@pytest.mark.parametrize("variant", ["float32", "nf4"])
def test_adapted_experts_merge(variant: str, tmp_path: Path) -> None:
    """What was trained on 4 bits too: the factors belong to the same weights on every base."""
    base = make_family("mixtral", tmp_path / "base")
    pefttools.save(_moved(_wrap(base, EXPERTS, variant)), tmp_path / "adapter")
    pefttools.merge(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    wanted = pefttools.load(tmp_path / "adapter", variant="float32").run_batch(BATCH)
    with torch.no_grad():
        assert torch.allclose(merged(**BATCH).logits, wanted, atol=1e-4)
    # The update of each expert is its own: an untouched one keeps its weight.
    plain = AutoModelForCausalLM.from_pretrained(base)
    name = "model.layers.0.mlp.experts.down_proj"
    change = (merged.get_parameter(name) - plain.get_parameter(name)).flatten(1).abs().amax(1)
    assert (change > 1e-3).all()


def test_an_update_on_packed_experts_is_that_of_the_dequantized_weight(tmp_path: Path) -> None:
    base = make_family("mixtral", tmp_path / "base")
    model = _moved(_wrap(base, EXPERTS, "nf4"))
    model.spec.variant.compute_in(model.transformer, torch.float32)
    found = model.run_batch(BATCH)
    wrapper = model.get_submodule("transformer.base_model.model.model.layers.0.mlp.experts")
    packed = wrapper.get_base_layer()
    update = wrapper.get_delta_weight("default")
    assert wrapper.parameter_name == "down_proj" and update.abs().max() > 1e-3
    # the same update, put into the weight itself
    chain = packed.parametrizations["down_proj"]
    plain = type(chain[0]).forward
    chain[0].forward = lambda one: plain(chain[0], one) + update
    for parameter in (wrapper.lora_A, wrapper.lora_B):
        parameter["default"].weight.data.zero_()
    assert torch.allclose(model.run_batch(BATCH), found, atol=1e-5)


@pytest.mark.parametrize("variant", ["float32", "nf4"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_plain_peft_reads_adapted_experts(family: str, variant: str, tmp_path: Path) -> None:
    base = make_family(family, tmp_path / "base")
    pefttools.save(_moved(_wrap(base, EXPERTS, variant)), tmp_path / "adapter")
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter")).eval()
    wanted = pefttools.load(tmp_path / "adapter", variant="float32").run_batch(BATCH)
    with torch.no_grad():
        assert torch.allclose(plain(**BATCH).logits, wanted, atol=1e-5)


def test_what_goes_not_with_experts_is_refused(tmp_path: Path) -> None:
    for option in ({"dora": True}, {"dropout": 0.1}, {"pissa": True}):
        with pytest.raises(ConfigError, match=r"lora\.experts and lora"):
            _wrap(make_family("mixtral", tmp_path / "base"), EXPERTS | option, "float32")
    with pytest.raises(TargetError, match="no fused experts"):
        _wrap(make_family("llama", tmp_path / "llama"), EXPERTS, "float32")


def test_a_pool_refuses_adapted_experts_by_name(tmp_path: Path) -> None:
    base = make_family("mixtral", tmp_path / "base")
    pefttools.save(_moved(_wrap(base, EXPERTS, "float32")), tmp_path / "adapter")
    pool = pefttools.AdapterPool(base, device="cpu")
    with pytest.raises(ConfigError, match="fused experts can't be served"):
        pool.load("one", tmp_path / "adapter")
