"""Models that hear: how long a sound their encoders take, and which of their states are of sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError
from pefttools.sites import transformers_models

if TYPE_CHECKING:
    import torch
    from torch import nn


def settle_encoder(transformer: nn.Module, positions: int | None) -> None:
    """Make an encoder like Whisper's compute no more than the sounds need, and quickly; others stay as they are.

    It takes sounds of exactly as many frames as it has positions for, and computes all of them, silence too: only the
    first positions are kept, as they are. Its convolutions give states that are not contiguous in memory, nor would be
    what follows from them: made contiguous once, each step takes half the time, with the same numbers.

    Args:
        transformer: the model, or one that contains it.
        positions: number of positions that the sounds take; None if the model has no such encoder.
    """
    for model in transformers_models(transformer):
        if positions is None or not _has_positions(model):
            continue
        model.layers[0].register_forward_pre_hook(_side_by_side)
        if positions < len(model.embed_positions.weight):
            _give_positions(model, _first(model.embed_positions, positions))


@contextmanager
def fitted_encoder(model: nn.Module, frames: int) -> Iterator[None]:
    """A context in which an encoder like Whisper's takes sounds of that many frames; others stay as they are.

    Args:
        model: the encoder.
        frames: of each sound.

    Raises:
        ConfigError: more than the encoder takes.
    """
    if not _has_positions(model):
        yield
        return
    before: Any = model.embed_positions
    inside: Any = model
    per_position: int = inside.conv1.stride[0] * inside.conv2.stride[0]
    if frames // per_position > before.num_embeddings:
        raise ConfigError(f"{frames} frames are more than the {before.num_embeddings * per_position} of the base")
    _give_positions(model, _first(before, frames // per_position))
    try:
        yield
    finally:
        _give_positions(model, before)


def _has_positions(model: Any) -> bool:
    """Whether it is an encoder that has as many positions as each of its sounds takes."""
    return hasattr(model, "embed_positions") and hasattr(model, "conv1") and hasattr(model, "layers")


def _first(table: nn.Embedding, positions: int) -> nn.Embedding:
    from torch import nn

    kept = table.weight.detach()[:positions].clone()
    return nn.Embedding(positions, table.embedding_dim, _weight=kept, _freeze=True)


def _give_positions(model: Any, table: nn.Embedding) -> None:
    model.embed_positions = table
    model.max_source_positions = model.config.max_source_positions = table.num_embeddings


def _side_by_side(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    states, *others = arguments
    return (states.contiguous(), *others)


def takes_mask(config: Any) -> bool:
    """Whether a base must be told what is padding: those with a norm over the whole length were trained without."""
    return getattr(config, "feat_extract_norm", None) != "group"


def heads_see_mask(model: nn.Module) -> bool:
    """Whether transformers' classes with a head leave padding out if they are given a mask, as wav2vec2's do."""
    return hasattr(model, "_get_feature_vector_attention_mask")


def state_mask(transformer: nn.Module, mask: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    """Which states are of sound, ``[rows, states]``.

    Args:
        transformer: the model that gave the states.
        mask: of samples or frames that are sound; None if all are.
        states: ``[rows, states, hidden]``.
    """
    import torch

    count = states.shape[1]
    if mask is None:
        return torch.ones(states.shape[:2], device=states.device)
    model = transformers_models(transformer)[0]
    lengths = model._get_feat_extract_output_lengths(mask.sum(-1))
    found: torch.Tensor = torch.arange(count, device=states.device)[None] < lengths[:, None]
    return found.to(states.dtype)
