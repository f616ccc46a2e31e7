"""Where the keys and values of a prefix go in an encoder-decoder model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def before_texts(attention: nn.Module, given: dict[str, Any], states: torch.Tensor) -> dict[str, Any]:
    """Arguments of an encoder's attention that finds keys and values before those of its text.

    Args:
        attention: the module.
        given: its arguments, by name.
        states: keys and values, ``[2, rows, heads, length, size]``.
    """
    import torch
    from transformers import DynamicCache

    places: Any = attention
    if places.layer_idx is None:  # an encoder has no use for it otherwise
        places.layer_idx = 0
    keys, values = states.to(given["hidden_states"].dtype)
    cache = DynamicCache()
    cache.update(keys, values, places.layer_idx)
    changed = given | {"past_key_values": cache}
    for name in ("attention_mask", "mask"):
        mask = given.get(name)
        if mask is not None:
            shape = (*mask.shape[:-1], keys.shape[-2])
            seen = torch.ones if mask.dtype == torch.bool else torch.zeros  # a floating-point mask is added
            changed[name] = torch.cat([seen(shape, dtype=mask.dtype, device=mask.device), mask], dim=-1)
    return changed


def before_what_is_written(given: dict[str, Any], states: torch.Tensor) -> dict[str, Any]:
    """Arguments of a decoder whose cache has keys and values before anything is written.

    Args:
        given: its arguments, by name; a cache that holds something already is left as it is.
        states: of all layers, ``[2 * layers, rows, heads, length, size]``.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    cache = given.get("past_key_values")
    if cache is None:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    if cache.get_seq_length() == 0:
        states = states.to(given["encoder_hidden_states"].dtype)
        for layer in range(len(states) // 2):
            cache.self_attention_cache.update(states[2 * layer], states[2 * layer + 1], layer)
    mask = given.get("attention_mask")
    if mask is not None and mask.ndim == 2 and given.get("past_key_values") is None:
        given = given | {"attention_mask": torch.cat([mask.new_ones(len(mask), states.shape[-2]), mask], dim=1)}
    return given | {"past_key_values": cache}


def attentions(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The self-attentions of an encoder-decoder model, for each side, layer by layer.

    Raises:
        TargetError: the parts of this model's blocks are not known.
    """
    from pefttools.sites import block_parts, modules_at

    part = block_parts(model).keys_values[0]
    inside = {"encoder": _inside(model, "get_encoder"), "decoder": _inside(model, "get_decoder")}
    names = [name.rpartition(".")[0] for name in modules_at(model, part)]
    found = {side: [model.get_submodule(name) for name in names] for side in inside}
    return {side: [one for one in modules if id(one) in inside[side]] for side, modules in found.items()}


def _inside(model: nn.Module, name: str) -> set[int]:
    side: Any = getattr(model, name)()
    return {id(module) for module in side.modules()}
