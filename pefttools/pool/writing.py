"""Encoder-decoder bases: inputs are encoded once, and answers are written with an adapter per row.

Every row of a batch has equally many prefix tokens, since a decoder counts its positions from the number of states in
its cache. Prompts come before the text that the encoder reads, each row beginning at its first position.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from pefttools.deltas.prefix_places import attentions, before_texts, before_what_is_written
from pefttools.pool.base import ServedBase
from pefttools.pool.generation import Sampling, settings_of
from pefttools.pool.seen import arguments, fitted
from pefttools.pool.virtual import BatchVirtualTokens


@dataclass(frozen=True)
class Encoded:
    """An encoder's output for a batch.

    Attributes:
        states: ``[rows, tokens, hidden]``, including virtual tokens.
        mask: which of them are real, ``[rows, tokens]``.
        virtual: virtual tokens of the batch's rows, with prefixes all of one length.
    """

    states: torch.Tensor
    mask: torch.Tensor
    virtual: BatchVirtualTokens | None


def encode(served: ServedBase, batch: dict[str, torch.Tensor], virtual: BatchVirtualTokens | None) -> Encoded:
    """Run the encoder; the rows' adapters must be routed.

    Args:
        served: the base.
        batch: what it reads, padded on the right.
        virtual: virtual tokens of the batch's rows; their prompts are put before the texts.
    """
    encoder: Any = served.model.get_encoder()  # type: ignore[operator]
    if virtual is not None and virtual.embeddings is not None:
        batch = _with_prompts(served, batch, virtual)
    heard = batch if served.modality == "text" else arguments(served, batch)
    with _encoder_prefixed(served, virtual), fitted(served, batch):
        states = encoder(**heard).last_hidden_state
    mask = batch.get("attention_mask")
    mask = states.new_ones(states.shape[:2], dtype=torch.long) if mask is None else mask
    return Encoded(states, mask, virtual)


def write(
    served: ServedBase,
    seen: Encoded,
    begun: torch.Tensor,
    *,
    max_new_tokens: Sequence[int],
    num_beams: int = 1,
    sampling: Sequence[Sampling | None] = (),
    ends: Sequence[Sequence[int]] = (),
    **options: Any,
) -> torch.Tensor:
    """New tokens ``[rows, new]``; the rows' adapters must be routed, each repeated for its beams.

    Args:
        served: the base.
        seen: the encoder's output for the rows.
        begun: tokens that the decoder starts with, ``[rows, begun]``.
        max_new_tokens: see `generate`, also for the following.
    """
    from transformers import GenerationMixin
    from transformers.modeling_outputs import BaseModelOutput

    settings = settings_of(served, begun.shape[1], max_new_tokens, num_beams, sampling, ends, options)
    virtual = seen.virtual
    if virtual is not None and num_beams > 1:
        virtual = virtual.repeat(num_beams)
    with decoder_prefixed(served, virtual):
        # Some classes, such as Whisper's, have their own generate, which takes no states.
        tokens = GenerationMixin.generate(
            served.model,
            encoder_outputs=BaseModelOutput(last_hidden_state=seen.states),
            attention_mask=seen.mask,
            decoder_input_ids=begun,
            **settings,
        )
    return cast("torch.Tensor", tokens[:, begun.shape[1] :])


@contextmanager
def _encoder_prefixed(served: ServedBase, virtual: BatchVirtualTokens | None) -> Iterator[None]:
    """Within it every attention of the encoder finds the rows' prefixes before its text."""
    if virtual is None or virtual.keys_values is None:
        yield
        return
    handles = []
    # The decoder's come after them.
    for module, pair in zip(attentions(served.model)["encoder"], virtual.keys_values, strict=False):
        hook = partial(_before, torch.stack(pair))
        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(
    states: torch.Tensor, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[()], Any]:
    given = {**dict(zip(inspect.signature(attention.forward).parameters, args, strict=False)), **kwargs}
    return (), before_texts(attention, given, states)


@contextmanager
def decoder_prefixed(served: ServedBase, virtual: BatchVirtualTokens | None) -> Iterator[None]:
    """Within it the decoder finds the rows' prefixes in its cache, if it starts with an empty one."""
    if virtual is None or virtual.keys_values is None:
        yield
        return
    own = virtual.keys_values[len(attentions(served.model)["encoder"]) :]
    states = torch.stack([state for pair in own for state in pair])

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return args, before_what_is_written(kwargs, states)

    decoder: nn.Module = served.model.get_decoder()  # type: ignore[operator]
    handle = decoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _with_prompts(
    served: ServedBase, batch: dict[str, torch.Tensor], virtual: BatchVirtualTokens
) -> dict[str, torch.Tensor]:
    """Each row's prompt followed by its text, padded on the right."""
    assert virtual.embeddings is not None
    texts = served.model.get_input_embeddings()(batch["input_ids"])  # type: ignore[operator]
    prompts = virtual.mask[:, virtual.prefix_length :].sum(1).tolist()
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = [
        torch.cat([virtual.embeddings[row, virtual.prompt_length - prompt :].to(texts.dtype), texts[row, :length]])
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    mask = [batch["attention_mask"].new_ones(len(one)) for one in rows]
    pad = nn.utils.rnn.pad_sequence
    return {"inputs_embeds": pad(rows, batch_first=True), "attention_mask": pad(mask, batch_first=True)}
