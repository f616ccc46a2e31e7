"""Generation on fake tensors: a prompt is read into a cache, and the last of the new tokens is computed from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def read_and_continue(
    read: Callable[..., Any], step: Callable[..., Any], batch: dict[str, torch.Tensor], new_tokens: int
) -> None:
    """Run what `generate` runs of a model at the two moments that need most memory; what comes between needs less.

    Args:
        read: forward pass of the model for a prompt.
        step: forward pass of the model for one more token.
        batch: ``input_ids`` and ``attention_mask``, ``[rows, tokens]``; with ``decoder_input_ids``, what an encoder
            reads.
        new_tokens: length of the answer.
    """
    if "decoder_input_ids" in batch:
        _write_and_continue(read, step, batch, new_tokens)
        return
    output = read(**batch, use_cache=True, logits_to_keep=1)
    name = _cache_name(output)
    cache, scores = _scores(output)
    del output
    if new_tokens < 2:
        return
    _grow(cache, new_tokens - 2)
    last = batch["input_ids"][:, :1]
    # As in `generate`, the last token's scores are kept until the next one's are there.
    _, scores = _scores(step(input_ids=last, **{name: cache}, use_cache=True, logits_to_keep=1))
    del scores


def _write_and_continue(
    read: Callable[..., Any], step: Callable[..., Any], batch: dict[str, torch.Tensor], new_tokens: int
) -> None:
    """The same for an encoder, and a decoder that attends to its states for each token."""
    first = batch["decoder_input_ids"][:, :1]
    output = read(**(batch | {"decoder_input_ids": first}), use_cache=True)
    states = output.encoder_last_hidden_state
    cache, scores = _scores(output)
    del output
    if new_tokens < 2:
        return
    _grow(cache.self_attention_cache, new_tokens - 2)
    seen = first.new_ones(states.shape[:2])
    given = {"encoder_outputs": (states,), "attention_mask": seen, "past_key_values": cache}
    _, scores = _scores(step(**given, decoder_input_ids=first, use_cache=True))
    del scores


def _cache_name(output: Any) -> str:
    """A state-space model keeps a state instead of keys and values, under another name."""
    return "past_key_values" if hasattr(output, "past_key_values") else "cache_params"


def _scores(output: Any) -> tuple[Any, torch.Tensor]:
    """The cache, and the scores by which the next tokens are chosen: a copy in float32."""
    return getattr(output, _cache_name(output)), output.logits[:, -1].to(torch.float32, copy=True)


def _grow(cache: Any, tokens: int) -> None:
    """Add tokens layer by layer, as decoding does one by one."""
    if tokens < 1:
        return
    for index, layer in enumerate(cache.layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            continue  # a layer whose state does not grow
        new = (states.new_empty((*states.shape[:-2], tokens, states.shape[-1])) for states in (keys, values))
        cache.update(*new, index)
