"""What prefixes and prompts need of a base model, and what PEFT must be told of it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError
from pefttools.sites import transformers_models

if TYPE_CHECKING:
    from torch import nn


def check_prefix(model: nn.Module, name: str) -> None:
    """Refuse a base whose attention takes no keys and values from outside.

    Raises:
        ConfigError: there is no way in for them.
    """
    inner = _checked(model, name)
    if "past_key_values" not in inspect.signature(inner.base_model.forward).parameters:
        raise _refusal(name, inner, "its attention takes no keys and values from a cache")
    if getattr(inner.config.get_text_config(), "kv_lora_rank", None) is not None:
        raise _refusal(name, inner, "its cache holds no keys and values, but what they are made from")
    if not inner.config.is_encoder_decoder and _few_key_heads(inner.config.get_text_config()):
        raise _refusal(name, inner, "its keys have fewer heads than PEFT takes them to have")


def check_prompt(model: nn.Module, name: str) -> None:
    """Refuse a base that takes no embeddings of the size of its own.

    Raises:
        ConfigError: there is no way in for them, or they have another size than its states.
    """
    inner = _checked(model, name)
    if "inputs_embeds" not in inspect.signature(inner.forward).parameters:
        raise _refusal(name, inner, "it takes no embeddings in the place of tokens")
    config = inner.config.get_text_config()
    size = inner.get_input_embeddings().weight.shape[-1]
    if size != config.hidden_size:
        raise _refusal(name, inner, f"its embeddings have the size {size}, its states {config.hidden_size}")


def sizes(model: nn.Module) -> dict[str, int]:
    """What PEFT asks of a prompt's base, where its configuration calls it by other names."""
    config = transformers_models(model)[0].config.get_text_config()
    return {
        # Of an encoder and a decoder, the encoder reads the prompt.
        "num_transformer_submodules": 1,
        "token_dim": int(config.hidden_size),
        "num_attention_heads": int(config.num_attention_heads),
        "num_layers": int(config.num_hidden_layers),
    }


def _checked(model: nn.Module, name: str) -> Any:
    inner = transformers_models(model)[0]
    if inner.config.is_encoder_decoder and not inner.can_generate():
        raise _refusal(name, inner, "it has an encoder and a decoder, and writes no texts")
    if getattr(inner, "_is_stateful", False) or getattr(inner.config, "num_attention_heads", None) is None:
        raise _refusal(name, inner, "its layers keep a state, and do not look back at all tokens")
    return inner


def _few_key_heads(config: Any) -> bool:
    """Whether there are fewer heads of keys than PEFT finds, which knows num_key_value_heads alone."""
    heads = getattr(config, "num_kv_heads", None)
    return bool(getattr(config, "multi_query", False)) or (heads is not None and heads != config.num_attention_heads)


def _refusal(name: str, part: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f"the method {name!r} can't be used on a {type(part).__name__}: {why}",
        hint="Choose another method, such as lora or bottleneck.",
    )
