"""Sentence embeddings: pooled states of length 1, as they are trained and as a pool gives them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pefttools.heads.pooling import pool
from pefttools.heads.served import ServedHead
from pefttools.heads.states import BatchStates

#: name in the head's state: what is learned of the projection
_CHANGE = "change"


class EmbeddingHead(nn.Module):
    """Pools hidden states, projects them if asked to, and scales them to length 1.

    The projection starts as the identity. What is learned is its difference from that, in units of ``1 / hidden``: the
    learning rate of a head, which suits a layer that starts small, then moves an embedding by about as much.

    Args:
        pooling: see `PoolingHead`.
        hidden: size of a hidden state, and of an embedding.
        projection: whether there is a linear layer.
    """

    def __init__(self, pooling: str, hidden: int, *, projection: bool) -> None:
        super().__init__()
        self.pooling = pooling
        self.change = nn.Parameter(torch.zeros(hidden, hidden)) if projection else None

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[rows, hidden]``, in float32 at least.

        Args:
            states: ``[rows, tokens, hidden]``.
            mask: ``[rows, tokens]``.
        """
        # Lengths and angles lose too much in 16 bits.
        with torch.autocast(states.device.type, enabled=False):
            return embedded(pool(_wide(states), mask, self.pooling), self.change)

    def layer(self) -> dict[str, torch.Tensor] | None:
        """State of the projection, as of a `torch.nn.Linear` without bias; None if there is none."""
        return None if self.change is None else {"weight": projection(self.change.detach())}


class ServedEmbedding(ServedHead):
    """The same for one row of a pool's batch: an embedding ``[hidden]``.

    Args:
        kind: kind of pooling.
        state: state of an `EmbeddingHead`.
        like: a parameter of the base, for device and number format.
    """

    def __init__(self, kind: str, state: Mapping[str, torch.Tensor], like: torch.Tensor) -> None:
        self.kind = kind
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        change = state.get(_CHANGE)
        self.change = None if change is None else change.to(like.device, self.dtype)

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        return embedded(batch.pooled(self.kind, self.dtype)[row], self.change)

    def bytes(self) -> int:
        return 0 if self.change is None else self.change.numel() * self.change.element_size()


def embedded(pooled: torch.Tensor, change: torch.Tensor | None) -> torch.Tensor:
    """Pooled states ``[..., hidden]``, projected and scaled to length 1."""
    if change is not None:
        pooled = nn.functional.linear(pooled, projection(change.to(pooled.dtype)))
    return nn.functional.normalize(pooled, dim=-1)


def projection(change: torch.Tensor) -> torch.Tensor:
    """The matrix that a change stands for."""
    return torch.eye(len(change), dtype=change.dtype, device=change.device) + change / len(change)


def _wide(states: torch.Tensor) -> torch.Tensor:
    return states if states.dtype == torch.float64 else states.float()
