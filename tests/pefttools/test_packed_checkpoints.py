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
