"""Tiny models with random weights, one of each family: structure is tested on all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pefttools.eval.probing.families import FAMILIES as FAMILIES_PROBED
from tests.conftest import save_base

_VOCABULARY = 30522
#: as most configurations call their sizes
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_EXPERTS = _GROUPED | {"num_experts_per_tok": 2}

#: family -> transformers' name of its configuration, and sizes
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _SIZES),
    "roberta": ("Roberta", _SIZES | {"pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", _SIZES | {"pad_token_id": 0, "type_vocab_size": 1}),
    "camembert": ("Camembert", _SIZES | {"pad_token_id": 0, "type_vocab_size": 1}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "albert": ("Albert", _SIZES | {"embedding_size": 16}),
    "electra": ("Electra", _SIZES | {"embedding_size": 16}),
    "electra-wide": ("Electra", _SIZES | {"embedding_size": 32}),
    "deberta": ("Deberta", _SIZES | {"relative_attention": True, "pos_att_type": "c2p|p2c"}),
    "deberta-v2": ("DebertaV2", _SIZES | {"relative_attention": True, "pos_att_type": "c2p|p2c"}),
    "mpnet": ("MPNet", _SIZES | {"pad_token_id": 1}),
    "modernbert": ("ModernBert", _SIZES | {"global_attn_every_n_layers": 2, "pad_token_id": 0}),
    "xlnet": ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _OLD),
    "gpt-neo": (
        "GPTNeo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 128,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "gpt-neox": ("GPTNeoX", _SIZES),
    "gptj": ("GPTJ", _OLD | {"rotary_dim": 4}),
    "opt": ("OPT", _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 0}),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("Falcon", _SIZES | {"multi_query": True}),
    "falcon-grouped": ("Falcon", _GROUPED | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "llama": ("Llama", _GROUPED),
    "mistral": ("Mistral", _GROUPED),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", _GROUPED | {"head_dim": 16}),
    "gemma": ("Gemma", _GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2", _GROUPED | {"head_dim": 16}),
    "gemma3": ("Gemma3Text", _GROUPED | {"head_dim": 16}),
    "phi": ("Phi", _GROUPED),
    "phi3": ("Phi3", _GROUPED),
    "stablelm": ("StableLm", _GROUPED),
    "cohere": ("Cohere", _GROUPED),
    "olmo": ("Olmo", _GROUPED),
    "olmo2": ("Olmo2", _GROUPED),
    "granite": ("Granite", _GROUPED),
    "smollm3": ("SmolLM3", _GROUPED),
    "mixtral": ("Mixtral", _EXPERTS | {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3Moe", _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8}),
    "deepseek": ("DeepseekV3", {**FAMILIES_PROBED["deepseek-v3"].sizes, "max_position_embeddings": 128}),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}),
    "falcon-h1": (
        "FalconH1",
        _GROUPED
        | {
            "head_dim": 8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
        },
    ),
}
#: what has an encoder and a decoder
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48}),
    "t5-start": (
        "T5",
        {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48, "decoder_start_token_id": 0},
    ),
    "bart": (
        "Bart",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 128,
        },
    ),
}
FAMILIES = ENCODERS | DECODERS | PAIRS


def configuration(family: str) -> Any:
    """The configuration of a family's tiny model."""
    import transformers

    name, sizes = FAMILIES[family]
    ends = {"bos_token_id": 101, "eos_token_id": 102}
    return getattr(transformers, f"{name}Config")(**{"vocab_size": _VOCABULARY, "pad_token_id": 0} | ends | sizes)


def make_family(family: str, folder: Path) -> str:
    """Save a family's tiny model, with MiniLM's tokenizer."""
    import transformers

    config = configuration(family)
    auto = "AutoModelForCausalLM" if family in DECODERS else "AutoModel"
    return save_base(getattr(transformers, auto).from_config(config), folder)
