"""Checkpoints that are stored in few bits already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.errors import BaseModelError, ConfigError

from ..conftest import save_base


def _stored(base: str, folder: Path, **given: Any) -> str:
    """A copy of a base whose configuration says that it is quantized."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": given}))
    return str(folder)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "already stored as 4-bit gptq.*need optimum and gpt"),
        ({"quant_method": "awq", "bits": 4}, "already stored as 4-bit awq.*need gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "already stored as compressed-tensors"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "already stored as bitsandbytes"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_refused_by_name(
    given: dict[str, Any], said: str, tiny_llama: str, tmp_path: Path
) -> None:
    base = _stored(tiny_llama, tmp_path / "base", **given)
    for variant in ("float32", "nf4"):
        with pytest.raises(BaseModelError, match=said):
            pefttools.wrap(base, "lora", task="causal-lm", variant=variant)
    with pytest.raises(BaseModelError, match=said):
        pefttools.plan(base, task="causal-lm")
    with pytest.raises(BaseModelError, match=said):
        pefttools.AdapterPool(base)


@pytest.fixture
def fp8(tiny_llama: str, tmp_path: Path) -> str:
    """The linear layers in 8 bits with a scale for each, as transformers writes them."""
    base = _stored(
        tiny_llama, tmp_path / "fp8", quant_method="fp8", activation_scheme="dynamic", weight_block_size=[128, 128]
    )
    state = load_file(Path(base) / "model.safetensors")
    for name in [one for one in state if one.endswith("_proj.weight")]:
        scale = state[name].abs().max() / 448
        state[name] = (state[name] / scale).to(torch.float8_e4m3fn)
        state[name.replace(".weight", ".weight_scale_inv")] = scale.reshape(1, 1)
    save_file(state, Path(base) / "model.safetensors", metadata={"format": "pt"})
    return base


def test_fp8_is_read_as_plain_weights(fp8: str, tiny_llama: str, tmp_path: Path) -> None:
    model = pefttools.wrap(fp8, {"name": "lora", "r": 4}, task="causal-lm", precision="float32")
    whole = pefttools.wrap(tiny_llama, "untuned", task="causal-lm", precision="float32")
    for name, parameter in whole.transformer.named_parameters():
        own = dict(model.transformer.named_parameters())
        found = own.get(f"base_model.model.{name}", own.get(f"base_model.model.{name[:-7]}.base_layer.weight"))
        assert found is not None and found.dtype == torch.float32
        # three bits of mantissa
        assert bool(((found - parameter).abs() <= parameter.abs() / 15 + 1e-3).all()), name
    pefttools.save(model, tmp_path / "artifact")
    pool = pefttools.AdapterPool(fp8)
    pool.load("one", tmp_path / "artifact")
    pefttools.merge(tmp_path / "artifact", tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    (row,) = pefttools.plan(fp8, task="causal-lm", methods=["lora"], batch_size=2, length=8)
    (same,) = pefttools.plan(tiny_llama, task="causal-lm", methods=["lora"], batch_size=2, length=8)
    assert row.peak_bytes == same.peak_bytes


@pytest.mark.parametrize("variant", ["int8", "nf4"])
def test_fp8_is_not_quantized_once_more(variant: str, fp8: str) -> None:
    with pytest.raises(ConfigError, match=f"already stored as fp8, and can't be stored as {variant}"):
        pefttools.wrap(fp8, "lora", task="causal-lm", variant=variant)
    with pytest.raises(ConfigError, match=f"already stored as fp8, and can't be stored as {variant}"):
        pefttools.plan(fp8, task="causal-lm", variants=[variant])


#: what the four bits of a number in mxfp4 stand for
_FOUR_BITS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def _in_four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight ``[experts, in, out]`` as the blocks and scales of mxfp4, and the weight that they stand for.

    Of 32 numbers along ``in`` each has four bits, two of which share a byte, and all share a power of two.
    """
    groups = weight.transpose(1, 2).unflatten(-1, (-1, 32))
    exponents = (groups.abs().amax(-1) / 6).log2().ceil()
    scaled = groups / exponents.exp2()[..., None]
    numbers = (scaled[..., None] - _FOUR_BITS).abs().argmin(-1)
    stands_for = (_FOUR_BITS[numbers] * exponents.exp2()[..., None]).flatten(-2).transpose(1, 2)
    blocks = (numbers[..., 0::2] | (numbers[..., 1::2] << 4)).to(torch.uint8)
    return blocks, (exponents + 127).to(torch.uint8), stands_for


@pytest.fixture
def mxfp4(tmp_path: Path) -> tuple[str, str]:
    """A gpt-oss whose experts are stored in mxfp4, and one with the plain weights that these stand for."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, vocab_size=30522, max_position_embeddings=128,
        bos_token_id=101, eos_token_id=102, pad_token_id=0,
    )  # fmt: skip
    plain = save_base(GptOssForCausalLM(config), tmp_path / "plain")
    packed = _stored(plain, tmp_path / "packed", quant_method="mxfp4", modules_to_not_convert=["lm_head"])
    state, whole = (load_file(Path(folder) / "model.safetensors") for folder in (packed, plain))
    for name in [one for one in state if one.endswith(("gate_up_proj", "down_proj"))]:
        state[f"{name}_blocks"], state[f"{name}_scales"], stands_for = _in_four_bits(state.pop(name))
        whole[name] = stands_for.contiguous()
    for folder, weights in ((packed, state), (plain, whole)):
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    return packed, plain


def test_mxfp4_is_read_as_plain_weights(mxfp4: tuple[str, str], tmp_path: Path) -> None:
    packed, plain = mxfp4
    found, wanted = (
        pefttools.wrap(base, {"name": "lora", "r": 4}, task="causal-lm", precision="float32") for base in mxfp4
    )
    own = dict(found.transformer.named_parameters())
    for name, parameter in wanted.transformer.named_parameters():
        assert own[name].dtype == torch.float32 and ("lora_" in name or torch.equal(own[name], parameter)), name
    pefttools.save(found, tmp_path / "artifact")
    pefttools.merge(tmp_path / "artifact", tmp_path / "merged")
    assert not (
        set(load_file(tmp_path / "merged" / "model.safetensors")) - set(load_file(f"{plain}/model.safetensors"))
    )
    pefttools.AdapterPool(packed).load("one", tmp_path / "artifact")
    rows = [pefttools.plan(base, task="causal-lm", methods=["lora"], batch_size=2, length=8)[0] for base in mxfp4]
    assert rows[0].peak_bytes == rows[1].peak_bytes
    with pytest.raises(ConfigError, match="already stored as mxfp4, and can't be stored as nf4"):
        pefttools.wrap(packed, "lora", task="causal-lm", variant="nf4")
