"""Tiny models with random weights, one for each family of architectures, and the task that each is trained for.

They need no download: the tokenizer knows the words that probes read, and images and audio are generated here.
"""

from __future__ import annotations

import re
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pefttools.bases.quiet import quiet
from pefttools.testing.rows import TEXTS

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}
_WORDS = sorted({word for text in (*TEXTS, "an answer", "a picture in") for word in text.split()} | {"a", "b", "c"})
#: a multiple of 8, into which some methods split vectors
VOCABULARY = 64
#: ids of words that occur in the texts
WORDS: tuple[int, ...] = tuple(range(len(_SPECIAL), len(_SPECIAL) + 5))
LABELS = ("a", "b", "c")
#: sizes, by the names that most configurations use
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_EXPERTS = _GROUPED | {"num_experts_per_tok": 2}
_SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 5,
    "forced_eos_token_id": None,
}
_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@dataclass(frozen=True)
class Family:
    """One family of architectures.

    Attributes:
        config: transformers' name of its configuration, without ``Config``.
        sizes: fields of the configuration.
        kind: determines its model class and the task that it is probed with.
    """

    config: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["encoder", "decoder", "encoder-decoder", "image", "image-text", "audio"] = "encoder"


def _decoder(config: str, sizes: Mapping[str, Any]) -> Family:
    return Family(config, sizes, "decoder")


FAMILIES: dict[str, Family] = {
    "bert": Family("Bert", _SIZES),
    "roberta": Family("Roberta", _SIZES),
    "deberta-v2": Family("DebertaV2", _SIZES | {"relative_attention": True, "pos_att_type": "c2p|p2c"}),
    "distilbert": Family("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "albert": Family("Albert", _SIZES | {"embedding_size": 16}),
    "modernbert": Family("ModernBert", _SIZES | {"global_attn_every_n_layers": 2}),
    "mpnet": Family("MPNet", _SIZES | {"pad_token_id": 1}),
    "t5": Family(
        "T5",
        {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48, "decoder_start_token_id": 0},
        "encoder-decoder",
    ),
    "bart": Family("Bart", _SEQ2SEQ | {"max_position_embeddings": 64}, "encoder-decoder"),
    "gpt2": _decoder("GPT2", _OLD),
    "opt": _decoder("OPT", _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": _decoder("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": _decoder("Falcon", _GROUPED | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "llama": _decoder("Llama", _GROUPED),
    "mistral": _decoder("Mistral", _GROUPED),
    "qwen2": _decoder("Qwen2", _GROUPED),
    "qwen3": _decoder("Qwen3", _GROUPED | {"head_dim": 16}),
    "gemma2": _decoder("Gemma2", _GROUPED | {"head_dim": 16}),
    "gemma3": _decoder("Gemma3Text", _GROUPED | {"head_dim": 16}),
    "phi3": _decoder("Phi3", _GROUPED),
    "mixtral": _decoder("Mixtral", _EXPERTS | {"num_local_experts": 4}),
    "qwen3-moe": _decoder("Qwen3Moe", _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8}),
    "deepseek-v3": _decoder(
        "DeepseekV3",
        _GROUPED
        | {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    "mamba": _decoder("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}),
    "vit": Family("ViT", _TOWER | {"image_size": 16, "patch_size": 4}, "image"),
    "clip": Family(
        "CLIP",
        {
            "text_config": _TOWER | {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "eos_token_id": 6},
            "vision_config": _TOWER | {"image_size": 16, "patch_size": 4},
            "projection_dim": 24,
        },
        "image-text",
    ),
    "whisper": Family(
        "Whisper",
        _SEQ2SEQ
        | {
            "num_mel_bins": 16,
            "max_source_positions": 50,
            "max_target_positions": 32,
            "classifier_proj_size": 16,
            "begin_suppress_tokens": None,
        },
        "audio",
    ),
}

#: the task that each kind of model is trained for
TASKS: dict[str, dict[str, Any]] = {
    "encoder": {"name": "sequence-classification", "head": "mean"},
    "decoder": {"name": "causal-lm"},
    "encoder-decoder": {"name": "seq2seq-lm", "max_length": 32, "max_target_length": 16, "max_new_tokens": 8},
    "image": {"name": "image-classification", "head": "mean"},
    "image-text": {"name": "zero-shot-image-classification", "prompt": "a picture in {label}"},
    "audio": {"name": "audio-classification", "head": "mean", "max_seconds": 0.2},
}
_AUTO = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
_RATE = 16_000


@dataclass(frozen=True)
class Bench:
    """A model with the task and rows it is probed on.

    Attributes:
        family: its name.
        base: folder, or name of the user's own model.
        task: the task that methods are trained for.
        labels: label names; empty if the task has none.
        rows: training rows; None for short texts.
    """

    family: str
    base: str
    task: Mapping[str, Any]
    labels: Sequence[str]
    rows: Sequence[Mapping[str, Any]] | None = None


def make_bench(name: str, folder: Path) -> Bench:
    """Write a family's tiny model into an empty folder.

    Args:
        name: of the family.
        folder: created if it is missing.

    Raises:
        KeyError: no such family.
    """
    import transformers

    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6}
    config = getattr(transformers, f"{family.config}Config")(**{"vocab_size": VOCABULARY, **ends, **family.sizes})
    model = getattr(transformers, _AUTO.get(family.kind, "AutoModel")).from_config(config)
    spread(model)
    with quiet():
        model.save_pretrained(folder / "model")
    if family.kind not in ("image", "audio"):
        _tokenizer(config).save_pretrained(folder / "model")
    if family.kind in ("image", "image-text"):
        _save_image_processor(family.kind, folder / "model")
    elif family.kind == "audio":
        transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder / "model")
    labels = () if family.kind in ("decoder", "encoder-decoder") else LABELS
    return Bench(name, str(folder / "model"), TASKS[family.kind], labels, rows_of(family.kind, folder))


def rows_of(modality: str, folder: Path) -> list[dict[str, Any]] | None:
    """Images or audio with labels, written into a folder; None for texts, which are short and need no files."""
    if modality in ("image", "image-text"):
        return _pictures(folder)
    return _sounds(folder) if modality == "audio" else None


#: weights that choose experts: large ones, otherwise rounding alone sends a token to other experts
_ROUTER = re.compile(r"\.(gate|router)\.weight$")


def spread(model: Any) -> None:
    """Give a model random weights large enough for every part of it to have a visible effect."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _ROUTER.search(name):
                parameter.normal_(std=1.0, generator=generator)
            elif parameter.ndim > 1:
                parameter.normal_(std=0.1, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def _tokenizer(config: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = [*_SPECIAL.values(), *_WORDS]
    words = {name: index for index, name in enumerate(names)}
    if config.get_text_config().pad_token_id == 1:
        words["[PAD]"], words["[UNK]"] = 1, 0
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [EOS]", pair="[CLS] $A [EOS] $B:1 [EOS]:1",
        special_tokens=[("[CLS]", words["[CLS]"]), ("[EOS]", words["[EOS]"])],
    )  # fmt: skip
    typed = getattr(config, "type_vocab_size", 0) or 0
    inputs = ["input_ids", *(["token_type_ids"] if typed > 1 else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **_SPECIAL)


def _save_image_processor(kind: str, folder: Path) -> None:
    size = {"height": 16, "width": 16}
    if kind == "image":
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        ViTImageProcessorPil(size=size).save_pretrained(folder)
        return
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)


def _pictures(folder: Path) -> list[dict[str, Any]]:
    """Six noise images, in three colours."""
    from PIL import Image

    rows = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 60, (9 + number % 3, 11, 3), dtype=np.uint8)
        pixels[..., number % 3] += 150
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        rows.append({"image": str(path), "label": LABELS[number % 3]})
    return rows


def _sounds(folder: Path) -> list[dict[str, Any]]:
    """Six tones of three pitches, of 0.1 to 0.2 seconds."""
    rows = []
    for number in range(6):
        count = 1600 + 300 * number
        noise = np.random.default_rng(number).normal(0, 0.02, count)
        tone = 0.5 * np.sin(np.arange(count) * (0.1 + 0.2 * (number % 3))) + noise
        path = folder / f"{number}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(_RATE)
            file.writeframes((tone * 20_000).astype("<i2").tobytes())
        rows.append({"audio": str(path), "label": LABELS[number % 3]})
    return rows
