"""What kinds with one vector per site have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from pefttools.deltas.kind import DeltaKind


@dataclass(frozen=True)
class VectorKind(DeltaKind):
    """One vector.

    Attributes:
        vector: ``[out]``, or ``[in]`` if it acts on the input.
    """

    neutral: ClassVar[float] = 1.0

    vector: torch.Tensor

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.vector - self.neutral))

    def values(self) -> dict[str, torch.Tensor]:
        return {"vector": self.vector}


def vectors(weights: Mapping[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """The vector of each row, in the shape and dtype to combine with ``like[rows, ..., size]``."""
    return per_row(weights["vector"], like)


def per_row(found: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Vectors ``[rows, size]``, in the shape and dtype to combine with ``like[rows, ..., size]``."""
    return found.view(len(found), *(1,) * (like.dim() - 2), -1).to(like.dtype)
