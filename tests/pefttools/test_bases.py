"""Base variants: what they compute in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PreTrainedConfig

import pefttools
from pefttools.bases import locate_base, variants
from pefttools.bases.loading import load_transformer
from pefttools.bases.skeleton import Skeleton, skeleton
from pefttools.compute.precision import hardware_dtype
from pefttools.errors import ConfigError
from pefttools.planning.counter import weights_of
from pefttools.planning.plan import Shape
from pefttools.testing import check_variant
from pefttools.tuned import TunedModel
from tests.families import make_family

from ..planned import plan


@pytest.mark.parametrize(("family", "task"), [("bert", None), ("llama", "causal-lm")])
@pytest.mark.parametrize("variant", list(variants))
def test_every_variant_holds_the_contract(
    variant: str, family: str, task: str | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    check_variant(variant, base=request.getfixturevalue(f"tiny_{family}"), folder=tmp_path, task=task)


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


def _skeleton(config: PreTrainedConfig, folder: Path) -> Skeleton:
    config.save_pretrained(folder)
    return skeleton(str(folder))


@pytest.mark.parametrize("variant", ["int8", "nf4"])
def test_a_variant_that_stores_nothing_in_few_bits_is_refused(variant: str, tmp_path: Path) -> None:
    llama = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    model, _ = _skeleton(llama, tmp_path).transformer(AutoModelForCausalLM, variants.get("float32")())
    chosen = variants.get(variant)()
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen.stand_in(model, linear, torch.float32)
    with pytest.raises(ConfigError, match="no plain linear layer in a LlamaForCausalLM"):
        chosen.after_load(model)


@pytest.mark.parametrize(("variant", "kind"), [("int8", Linear8bitLt), ("nf4", Linear4bit)])
def test_linear_layers_of_a_models_own_class_are_quantized(variant: str, kind: type[nn.Module], tmp_path: Path) -> None:
    """Falcon's; they train, answer nearly as before, and weigh what is planned."""
    base = make_family("falcon", tmp_path / "base")
    task = {"name": "causal-lm", "max_length": 64}
    plain = pefttools.wrap(base, {"name": "lora", "r": 2}, task=task, precision="float32")
    model = pefttools.wrap(base, {"name": "lora", "r": 2}, task=task, variant=variant, precision="float32")
    layers = [module for name, module in model.named_modules() if name.endswith("base_layer")]
    assert len(layers) == 8 and all(isinstance(layer, kind) for layer in layers)
    ids = torch.tensor([[101, 2003, 2026, 4003, 102]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wanted, found = plain.run_batch(batch), model.run_batch(batch)
    assert (found - wanted).abs().max() < (0.05 if variant == "int8" else 0.8) * wanted.abs().max()
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > (
        0.99 if variant == "int8" else 0.85
    )
    model.train()
    model(**batch, targets=ids).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def weight(model: Any) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in weights_of(model))

    planned, _ = skeleton(base).transformer(AutoModelForCausalLM, variants.get(variant)())
    loaded, _ = load_transformer(AutoModelForCausalLM, locate_base(base), variants.get(variant)())
    assert weight(planned) == pytest.approx(weight(loaded), rel=0.02)


@pytest.mark.slow
def test_what_is_not_quantized_stands_in_the_plan(tmp_path: Path) -> None:
    """bitsandbytes stores no fused experts in 8 bits; nf4 leaves embeddings, routers and norms."""
    mixtral = MixtralConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                            num_key_value_heads=2, vocab_size=64, num_local_experts=2, dtype="bfloat16")  # fmt: skip
    mixtral.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"'int8' leaves .* GB in bfloat16, .*experts"):
        skeleton(str(tmp_path)).transformer(AutoModelForCausalLM, variants.get("int8")())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        skeleton(str(tmp_path)).transformer(AutoModelForCausalLM, variants.get("nf4")())
    whole, eight, four = plan(str(tmp_path), task="causal-lm", variants=["bfloat16", "int8", "nf4"],
                              shape=Shape(1, 8, eval_batch_size=1))  # fmt: skip
    experts, embeddings = 2 * (2 * 64 + 64) * 32, 2 * 64 * 32
    router, norms = 2 * 32, 3 * 32
    assert whole.unquantized_bytes == 0
    assert four.unquantized_bytes == 2 * embeddings + 4 * (router + norms)
    assert eight.unquantized_bytes == four.unquantized_bytes + 2 * experts
