"""A full-rank change from random matrices shared by many adapters, with factors of its own (RandLoRA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pefttools.deltas.kind import WeightChange


@dataclass(frozen=True)
class SharedBases(WeightChange):
    """``y += b (m x)`` or, if the layer has more inputs than outputs, ``y += m^T (b^T x)``.

    ``m [rank * bases, smaller]`` is made of the matrix ``a`` and the adapter's own factors:
    ``m[r, n, s] = inner[r, n] * a[r, s] * outer[n, s]``.

    Attributes:
        a: ``[rank, smaller]``, the same for all adapters of one kind; a pool holds it once.
        b: ``[larger, bases * rank]``, likewise.
        inner: ``[rank, bases]``; a scale is folded into it.
        outer: ``[bases, smaller]``, of the smaller of the layer's two sizes.
        narrow: whether it has no more inputs than outputs.
    """

    name: ClassVar[str] = "shared_bases"
    stacked: ClassVar[bool] = False
    shared: ClassVar[tuple[str, ...]] = ("a", "b")

    a: torch.Tensor
    b: torch.Tensor
    inner: torch.Tensor
    outer: torch.Tensor
    narrow: bool

    def _mixed(self) -> torch.Tensor:
        return (self.inner[:, :, None] * self.a[:, None] * self.outer).flatten(0, 1)

    def dense(self) -> torch.Tensor:
        change = self.b @ self._mixed()
        return change if self.narrow else change.T

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        own = self.to(next(module.parameters()).device)

        def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            # Made anew for every call: kept, it would be as large as the layer's weight.
            mixed, x = own._mixed(), x.to(own.b.dtype)
            added = (x @ mixed.T) @ own.b.T if own.narrow else (x @ own.b) @ mixed
            return y + added.to(y.dtype)

        return add
