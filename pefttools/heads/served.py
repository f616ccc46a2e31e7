"""Heads as a pool runs them: each adapter has its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from pefttools.heads.states import BatchStates


class ServedHead(ABC):
    """One adapter's head.

    Attributes:
        labels: names of its outputs, if one of them is a row's answer.
        language: whether it reads the logits of the base's own language head.
    """

    labels: tuple[str, ...] = ()
    language = False

    @abstractmethod
    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        """A row's logits."""

    def bytes(self) -> int:
        """Size of its parameters."""
        return 0


class LanguageHead(ServedHead):
    """The base's own language head: logits per token, ``[tokens, vocabulary]``."""

    language = True

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        return batch.language(row)


class LinearHead(ServedHead):
    """Pooling and one linear layer, as `pefttools.heads.pooling.PoolingHead`: logits ``[outputs]``, or per token.

    Args:
        kind: kind of pooling.
        state: state of a `PoolingHead`.
        labels: names of its outputs.
        like: a parameter of the base, for device and number format.
    """

    def __init__(self, kind: str, state: dict[str, torch.Tensor], labels: tuple[str, ...], like: torch.Tensor) -> None:
        self.kind = kind
        self.labels = labels
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.weight = state["linear.weight"].to(like.device, self.dtype)
        self.bias = state["linear.bias"].to(like.device, self.dtype)

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        # Row by row: a row's logits must not depend on its neighbours, not even in the last bit.
        per_token = self.kind == "tokens"
        states = batch.tokens(row).to(self.dtype) if per_token else batch.pooled(self.kind, self.dtype)[row]
        return nn.functional.linear(states, self.weight, self.bias)

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.weight, self.bias))
