"""Factors: of a module's input, of its output without its bias (DoRA's), of its whole output (IA3's)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from pefttools.deltas.kind import At
from pefttools.deltas.vector import VectorKind, vectors


@dataclass(frozen=True)
class InputScale(VectorKind):
    """``x *= s``, with ``s[in]``, before the module."""

    name: ClassVar[str] = "input_scale"
    on_input: ClassVar[bool] = True

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.vector

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        return y * vectors(weights, y)


@dataclass(frozen=True)
class WeightScale(VectorKind):
    """``y *= s``, with ``s[out]``, where ``y`` is the output without the module's bias."""

    name: ClassVar[str] = "weight_scale"

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.vector.unsqueeze(1)

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        bias = getattr(at.module, "bias", None)
        # Written so that a factor of one changes nothing, not even the last bit.
        return y + (vectors(weights, y) - 1) * (y if bias is None else y - bias)


@dataclass(frozen=True)
class OutputScale(VectorKind):
    """``y *= s``, with ``s[out]``, where ``y`` is the output with the module's bias."""

    name: ClassVar[str] = "output_scale"

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.vector.unsqueeze(1)

    def changed_bias(self, bias: torch.Tensor) -> torch.Tensor:
        return bias * self.vector

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        return y * vectors(weights, y)
