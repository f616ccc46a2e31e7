"""A low-rank update of a linear layer's weight (LoRA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from pefttools.deltas.kind import At, DeltaKind, Family, padded


@dataclass(frozen=True)
class LowRank(DeltaKind):
    """``y += b a x``; a scale is folded into `b`.

    Attributes:
        a: ``[rank, in]``.
        b: ``[out, rank]``.
    """

    name: ClassVar[str] = "low_rank"
    additive: ClassVar[bool] = True

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def dense(self) -> torch.Tensor:
        """The change of the weight, ``[out, in]``."""
        return self.b @ self.a

    def norm(self) -> float:
        # From a small matrix with the singular values of ``b a``.
        left, right = torch.linalg.qr(self.b.float())[1], torch.linalg.qr(self.a.T.float())[1]
        return float(torch.linalg.matrix_norm(left @ right.T))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.dense()

    @classmethod
    def summed(cls, parts: Sequence[tuple[Self, float]], site: str) -> Self:
        """Exact: factors are concatenated, so that the rank is the sum of theirs."""
        return cls(torch.cat([part.a for part, _ in parts], dim=0), torch.cat([part.b * w for part, w in parts], dim=1))

    def family(self) -> Family:
        return Family(self.name, padded(self.rank))

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        return {"a": (size, self.a.shape[1]), "b": (size, self.b.shape[0])}

    def values(self) -> dict[str, torch.Tensor]:
        # Both with the rank first: small batched products run fastest like this.
        return {"a": self.a, "b": self.b.T}

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        if x.dim() != 3:
            return cls.apply(as_tokens(x), as_tokens(y), weights, at).view(y.shape)
        a, b = weights["a"], weights["b"]
        inner = _read(x.to(a.dtype), a)
        if y.dtype == b.dtype:
            # Nothing else refers to a linear layer's output yet: adding in place saves a copy of it.
            return y.baddbmm_(inner, b) if isinstance(at.module, nn.Linear) else torch.baddbmm(y, inner, b)
        return y + torch.bmm(inner, b).to(y.dtype)


def _read(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """``[rows, tokens, in]``, ``[rows, rank, in]`` -> ``[rows, tokens, rank]``."""
    if x.shape[1] == 1:
        # For one token, the weights are nearly all that is read: as the first factor they are read in memory order.
        return torch.bmm(a, x.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(x, a.transpose(1, 2))


def as_tokens(x: torch.Tensor) -> torch.Tensor:
    """``[rows, ..., size]`` as ``[rows, tokens, size]``: pooled states have no tokens, latent attention has more."""
    return x.reshape(len(x), -1, x.shape[-1])
