"""Task heads of our own: pooling and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class PoolingHead(nn.Module):
    """Pools hidden states and classifies.

    Args:
        pooling: ``mean`` over the tokens, ``cls`` (the first token) or ``last`` (the last one that is not padding);
            ``tokens`` for none, so that each token has its own logits.
        hidden: size of a hidden state.
        outputs: number of logits.
        dropout: on the pooled vector, in training.
        bias: initial bias; None for 0.
    """

    def __init__(
        self, pooling: str, hidden: int, outputs: int, dropout: float = 0.1, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, outputs)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        if bias is not None:
            with torch.no_grad():
                self.linear.bias.add_(torch.tensor(bias))

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits ``[rows, outputs]``, or ``[rows, tokens, outputs]``.

        Args:
            states: ``[rows, tokens, hidden]``.
            mask: ``[rows, tokens]``.
        """
        logits: torch.Tensor = self.linear(self.dropout(pool(states.to(self.linear.weight.dtype), mask, self.pooling)))
        return logits

    def layer(self) -> dict[str, torch.Tensor]:
        """State of the linear layer, as of `torch.nn.Linear`."""
        return self.linear.state_dict()


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector per row, ``[rows, hidden]``; the states themselves if they are not pooled."""
    if pooling == "tokens":
        return states
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).argmax(1)
        return states[torch.arange(len(states), device=states.device), last]
    raise ValueError(f"unknown pooling {pooling!r}")
