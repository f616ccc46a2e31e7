"""A low-rank update whose matrices are shared by many adapters, with vectors of its own (VeRA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pefttools.deltas.kind import DeltaKind
from pefttools.deltas.low_rank import LowRank


@dataclass(frozen=True)
class SharedLowRank(DeltaKind):
    """``y += outer * (b (inner * (a x)))``.

    Attributes:
        a: ``[rank, in]``, the same for all adapters of one kind; a pool holds it once.
        b: ``[out, rank]``, likewise.
        inner: ``[rank]``.
        outer: ``[out]``.
    """

    name: ClassVar[str] = "shared_low_rank"
    stacked: ClassVar[bool] = False
    shared: ClassVar[tuple[str, ...]] = ("a", "b")

    a: torch.Tensor
    b: torch.Tensor
    inner: torch.Tensor
    outer: torch.Tensor

    def _own(self) -> LowRank:
        return LowRank(self.a * self.inner[:, None], self.b * self.outer[:, None])

    def norm(self) -> float:
        return self._own().norm()

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self._own().dense().to(weight)

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        device = next(module.parameters()).device
        a, b, inner, outer = (tensor.to(device) for tensor in (self.a, self.b, self.inner, self.outer))

        def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            read = nn.functional.linear(x.to(a.dtype), a) * inner
            return y + (nn.functional.linear(read, b) * outer).to(y.dtype)

        return add
