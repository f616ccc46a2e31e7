"""A summand on a module's output (BitFit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from pefttools.deltas.kind import At
from pefttools.deltas.vector import VectorKind, vectors
from pefttools.errors import ConfigError

#: modules that return ``[rows, channels, ...]``
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Bias(VectorKind):
    """``y += b``, with ``b[out]``; for a convolution ``b[channels]``, which are the second dimension of ``y``."""

    name: ClassVar[str] = "bias"
    additive: ClassVar[bool] = True
    changes_weight: ClassVar[bool] = False
    neutral: ClassVar[float] = 0.0

    def changed_bias(self, bias: torch.Tensor) -> torch.Tensor:
        return bias + self.vector

    def fold(self, parameters: Mapping[str, torch.Tensor], site: str) -> dict[str, torch.Tensor]:
        if "bias" not in parameters:
            raise ConfigError(f"the module {site} has no bias to which the adapter's could be added")
        return super().fold(parameters, site)

    @classmethod
    def summed(cls, parts: Sequence[tuple[Self, float]], site: str) -> Self:
        return cls(torch.stack([part.vector * weight for part, weight in parts]).sum(0))

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        if not _channels_first(at.module):
            return y + vectors(weights, y)
        found = weights["vector"]
        return y + found.view(*found.shape, *(1,) * (y.dim() - 2)).to(y.dtype)


def _channels_first(module: nn.Module) -> bool:
    # Norms of convolutional networks have this attribute.
    return isinstance(module, CONVOLUTIONS) or getattr(module, "data_format", None) == "channels_first"
