"""Any change of a weight; it takes as much memory as the weight itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from pefttools.deltas.kind import DeltaKind


@dataclass(frozen=True)
class Dense(DeltaKind):
    """``y += change x``.

    Attributes:
        change: change of the weight, ``[out, in]``.
    """

    name: ClassVar[str] = "dense"
    additive: ClassVar[bool] = True
    stacked: ClassVar[bool] = False

    change: torch.Tensor

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.change))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.change

    @classmethod
    def summed(cls, parts: Sequence[tuple[Self, float]], site: str) -> Self:
        return cls(torch.stack([part.change * weight for part, weight in parts]).sum(0))

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        change = self.change.to(next(module.parameters()).device)
        return lambda x, y: y + nn.functional.linear(x.to(change.dtype), change).to(y.dtype)
