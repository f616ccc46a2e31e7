"""Inputs of a base that reads images or audio, and which of its states are not padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pefttools.heads.states import BatchStates
from pefttools.pool.base import ServedBase
from pefttools.tasks.audio.sound_encoder import fitted_encoder, heads_see_mask, state_mask, takes_mask

MASK = "attention_mask"


def arguments(served: ServedBase, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Arguments of the base's forward pass: floats in its number format, and a mask if it takes one."""
    left = set() if takes_mask(served.config) else {MASK}
    return {
        name: tensor.to(served.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in batch.items()
        if name not in left
    }


@contextmanager
def fitted(served: ServedBase, batch: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within it an encoder like Whisper's takes audio of the batch's length."""
    if served.modality != "audio":
        yield
        return
    with fitted_encoder(served.backbone, batch[served.reads].shape[-1]):
        yield


def states_of(
    served: ServedBase, batch: dict[str, torch.Tensor], states: torch.Tensor, pooled: torch.Tensor | None
) -> BatchStates:
    """States of a batch in the form that heads read.

    Args:
        served: the base.
        batch: what it read.
        states: its hidden states.
        pooled: the base's own pooling of them, ``[rows, hidden]``.
    """
    everything = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    mask = batch.get(MASK)
    if mask is None or served.modality != "audio":
        return BatchStates(states, None, None, everything, own_pooled=pooled)
    sound = state_mask(served.backbone, mask, states)
    # A transformers class may use the mask that it is given; our own heads always leave out padding.
    given = sound if takes_mask(served.config) and heads_see_mask(served.backbone) else everything
    return BatchStates(states, None, None, given, own_pooled=pooled, pooling_mask=sound)
