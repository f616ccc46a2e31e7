"""PEFT's layout of trained keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pefttools.deltas import AdapterDeltas


def as_prefix(states: Tensor, options: dict[str, Any]) -> AdapterDeltas:
    """The delta form of PEFT's ``prompt_embeddings``.

    Args:
        states: ``[length, 2 * layers * heads * head size]``.
        options: PEFT's ``adapter_config.json``.
    """
    from pefttools.deltas import AdapterDeltas, Prefix

    heads = options["num_attention_heads"]
    parted = states.view(options["num_virtual_tokens"], options["num_layers"] * 2, heads, options["token_dim"] // heads)
    return AdapterDeltas({}, (Prefix(parted.permute(1, 2, 0, 3).contiguous()),))
