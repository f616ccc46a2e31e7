"""What a quantized model keeps in 16 bits, and experts, which nf4 stores in 4."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, MixtralConfig, PreTrainedConfig

import pefttools
from pefttools.bases import locate_base, variants
from pefttools.bases.experts import compute_experts_in, expert_weights
from pefttools.bases.loading import load_transformer
from pefttools.bases.skeleton import skeleton
from pefttools.planning.counter import weights_of
from pefttools.planning.device import GPU
from pefttools.planning.plan import Shape
from pefttools.sites import fused_weights
from tests.families import make_family

from ..planned import plan

MIXTURES = ("mixtral", "qwen3-moe", "deepseek")
TASK = {"name": "causal-lm", "max_length": 64}
IDS = torch.tensor([[101, 2003, 2026, 4003, 102, 999, 2500], [7, 8, 9, 2999, 101, 4003, 5]])


def _rounded(family: str, folder: Path, dtype: str) -> str:
    """A base whose weights are what bfloat16 can hold, stored in `dtype`."""
    base = Path(make_family(family, folder))
    path = base / "model.safetensors"
    state = {name: tensor.to(torch.bfloat16).to(getattr(torch, dtype)) for name, tensor in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
    return str(base)


def _load(base: str, variant: str) -> Any:
    model, _ = load_transformer(AutoModelForCausalLM, locate_base(base), variants.get(variant)())
    return model


def _bytes(model: nn.Module) -> int:
    return sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in weights_of(model)}.values())


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(IDS).logits
    return logits


def _dense(model: Any) -> Any:
    """The same numbers in float32, by no quantized layer."""
    dense = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    state = {name: p.float() for name, p in model.named_parameters() if p.is_floating_point()}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            state[f"{name}.weight"] = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    fused = list(fused_weights(model))
    for name in fused:
        module, _, own = name.rpartition(".")
        state[name] = getattr(model.get_submodule(module), own).float()
    state |= {name: buffer.float() for name, buffer in model.named_buffers() if name in dense.state_dict()}
    missing = dense.load_state_dict(state, strict=False).missing_keys
    assert fused and set(missing) <= {"lm_head.weight"}
    return dense.eval()


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_in_4_bits_give_what_their_numbers_give(family: str, tmp_path: Path) -> None:
    model = _load(_rounded(family, tmp_path / "base", "bfloat16"), "nf4")
    variants.get("nf4")().compute_in(model, torch.float32)
    compute_experts_in(model, torch.float32)
    model.get_output_embeddings().float()  # so that nothing is rounded on the way
    wanted = _logits(_dense(model))
    assert (_logits(model) - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("variant", ["int8", "nf4"])
@pytest.mark.parametrize("family", [*MIXTURES, "llama", "gpt2", "falcon", "gemma3"])
def test_a_16_bit_checkpoint_takes_less_than_in_bfloat16_and_means_the_same(
    family: str, variant: str, tmp_path: Path
) -> None:
    """The same numbers, stored in 32 or in 16 bits: quantized alike, but what stays whole has half the size."""
    long, short = (_rounded(family, tmp_path / dtype, dtype) for dtype in ("float32", "bfloat16"))
    model, bfloat16 = _load(short, variant), _load(short, "bfloat16")
    assert _bytes(model) < _bytes(bfloat16)
    planned, _ = skeleton(short).transformer(AutoModelForCausalLM, variants.get(variant)())
    assert _bytes(planned) == pytest.approx(_bytes(model), rel=0.02)
    assert planned.dtype == model.dtype == torch.float32
    small = [p for p in model.parameters() if p.ndim == 1]
    assert small and all(p.dtype == torch.float32 for p in small)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    found, wanted = _logits(model), _logits(_load(long, variant))
    assert found.dtype == torch.float32
    alike = torch.nn.functional.cosine_similarity(found, wanted, dim=-1).flatten() > 0.999
    assert (~alike).sum() <= (2 if family in MIXTURES else 0), "more than a router that tips over"


def test_autograd_keeps_no_dequantized_experts(tmp_path: Path) -> None:
    base = make_family("mixtral", tmp_path / "base")
    model = pefttools.wrap(base, {"name": "lora", "r": 2}, task=TASK, variant="nf4", precision="float32")
    shapes = {shape for module, names in expert_weights(_load(base, "float32")) for shape in _shapes(module, names)}
    model.train()
    loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), targets=IDS)
    gc.collect()
    left = [t for t in gc.get_objects() if type(t) is torch.Tensor and tuple(t.shape) in shapes]
    assert len(shapes) == 2 and not left
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    again = pefttools.wrap(base, {"name": "lora", "r": 2}, task=TASK, variant="nf4", precision="float32")
    again.load_state_dict(model.state_dict(), strict=False)
    again.transformer.gradient_checkpointing_enable()
    again.train()
    again(input_ids=IDS, attention_mask=torch.ones_like(IDS), targets=IDS).backward()
    wanted = {name: p.grad for name, p in again.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() and found
    for name, gradient in wanted.items():
        assert torch.allclose(gradient, found[name], rtol=1e-4, atol=1e-7), name


def _shapes(module: nn.Module, names: list[str]) -> list[tuple[int, ...]]:
    return [tuple(getattr(module, name).shape) for name in names]


SMALL_MIXTRAL = {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 2, "num_attention_heads": 8,
                 "num_key_value_heads": 2, "vocab_size": 4096}  # fmt: skip
SMALL_DEEPSEEK = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8,
                  "moe_intermediate_size": 512, "n_routed_experts": 32, "vocab_size": 4096}  # fmt: skip


@pytest.mark.parametrize("config", [
    MixtralConfig(**SMALL_MIXTRAL, dtype="bfloat16"),
    pytest.param(DeepseekV3Config(**SMALL_DEEPSEEK, dtype="bfloat16"), marks=pytest.mark.slow),
    pytest.param(MixtralConfig(dtype="bfloat16", num_hidden_layers=32), marks=pytest.mark.slow),
    pytest.param(DeepseekV3Config(dtype="bfloat16"), marks=pytest.mark.slow),
])  # fmt: skip
def test_mixtures_under_nf4_take_less_than_their_bfloat16(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    whole, quantized = plan(str(tmp_path), task="causal-lm", methods=["lora"], variants=["bfloat16", "nf4"], device=GPU,
                            shape=Shape(1, 128, eval_batch_size=1))  # fmt: skip
    assert quantized.weights_bytes < 0.45 * whole.weights_bytes
    assert quantized.peak_bytes < 0.8 * whole.peak_bytes
    assert quantized.trainable_parameters == whole.trainable_parameters
