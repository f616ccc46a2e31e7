"""A summand on a module's output (BitFit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from pefttools.deltas.kind import At
from pefttools.deltas.vector import VectorKind, vectors
from pefttools.errors import ConfigError


@dataclass(frozen=True)
class Bias(VectorKind):
    """``y += b``, with ``b[out]``."""

    name: ClassVar[str] = "bias"
    additive: ClassVar[bool] = True
    changes_weight: ClassVar[bool] = False
    neutral: ClassVar[float] = 0.0

    def changed_bias(self, bias: torch.Tensor) -> torch.Tensor:
        return bias + self.vector

    def fold(self, parameters: Mapping[str, torch.Tensor], site: str) -> dict[str, torch.Tensor]:
        if "bias" not in parameters:
            raise ConfigError(f"the module {site} has no bias that could take the adapter's")
        return super().fold(parameters, site)

    @classmethod
    def summed(cls, parts: Sequence[tuple[Self, float]], site: str) -> Self:
        return cls(torch.stack([part.vector * weight for part, weight in parts]).sum(0))

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        return y + vectors(weights, y)
