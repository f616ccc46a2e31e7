"""What prefixes and prompts need from a base model, and what PEFT must be told about it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError
from pefttools.sites import transformers_models

if TYPE_CHECKING:
    from torch import nn


def check_prefix(model: nn.Module, name: str) -> None:
    """Refuse a base whose attention accepts no external keys and values.

    Raises:
        ConfigError: it accepts none.
    """
    inner = _checked(model, name)
    if "past_key_values" not in inspect.signature(inner.base_model.forward).parameters:
        raise _refusal(name, inner, "its attention takes no keys and values from a cache")
    if getattr(inner.config.get_text_config(), "kv_lora_rank", None) is not None:
        raise _refusal(name, inner, "its cache holds compressed latents instead of keys and values")
    if not inner.config.is_encoder_decoder and _few_key_heads(inner.config.get_text_config()):
        raise _refusal(name, inner, "its keys have fewer heads than PEFT assumes")


def check_prompt(model: nn.Module, name: str) -> None:
    """Refuse a base that accepts no embeddings of the size of its own.

    Raises:
        ConfigError: it accepts none, or they have another size than its states.
    """
    inner = _checked(model, name)
    if "inputs_embeds" not in inspect.signature(inner.forward).parameters:
        raise _refusal(name, inner, "it takes no embeddings in place of tokens")
    config = inner.config.get_text_config()
    size = inner.get_input_embeddings().weight.shape[-1]
    if size != config.hidden_size:
        raise _refusal(name, inner, f"its embeddings have size {size}, but its states {config.hidden_size}")


def sizes(model: nn.Module) -> dict[str, int]:
    """Sizes that PEFT needs for a prompt, which configurations may call by other names."""
    config = transformers_models(model)[0].config.get_text_config()
    return {
        # In an encoder-decoder, the encoder reads the prompt.
        "num_transformer_submodules": 1,
        "token_dim": int(config.hidden_size),
        "num_attention_heads": int(config.num_attention_heads),
        "num_layers": int(config.num_hidden_layers),
    }


def _checked(model: nn.Module, name: str) -> Any:
    inner = transformers_models(model)[0]
    if inner.config.is_encoder_decoder and not inner.can_generate():
        raise _refusal(name, inner, "it has an encoder and a decoder, but does not generate text")
    if getattr(inner, "_is_stateful", False) or getattr(inner.config, "num_attention_heads", None) is None:
        raise _refusal(name, inner, "it has layers that keep a recurrent state instead of attending to all tokens")
    return inner


def _few_key_heads(config: Any) -> bool:
    """Whether there are fewer key heads than PEFT assumes, which only reads num_key_value_heads."""
    heads = getattr(config, "num_kv_heads", None)
    return bool(getattr(config, "multi_query", False)) or (heads is not None and heads != config.num_attention_heads)


def _refusal(name: str, part: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f"the method {name!r} can't be used on a {type(part).__name__}: {why}",
        hint="Choose another method, such as lora or bottleneck.",
    )
