"""The words that stand for labels, read off a language head at one place of each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class LabelWords(nn.Module):
    """Logits of the tokens that stand for labels; it has no parameters.

    Args:
        tokens: of the labels, in their order.
        mask: token at whose place a word is missing; None if words follow the row's last token.
    """

    tokens: torch.Tensor

    def __init__(self, tokens: Sequence[int], mask: int | None) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.mask = mask

    def places(self, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Where each row's word is read, ``[rows]``, in token ids ``[rows, tokens]`` with their attention mask."""
        there = attention.ne(0) if self.mask is None else ids.eq(self.mask)
        # The last one: a key that grows with the place, 0 where there is nothing.
        return (there * torch.arange(1, ids.shape[1] + 1, device=ids.device)).argmax(1)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Those of the labels, ``[rows, labels]``, of logits ``[rows, vocabulary]``."""
        return logits.index_select(-1, self.tokens)
