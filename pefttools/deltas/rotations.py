"""Rotations of what a layer reads, in blocks, and of what it returns, in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from pefttools.deltas.kind import At, DeltaKind, Family
from pefttools.deltas.vector import per_row


@dataclass(frozen=True)
class Rotation(DeltaKind):
    """``x <- x M`` before the module, with ``M`` block-diagonal (OFT, BOFT).

    Attributes:
        blocks: ``[in / size, size, size]``.
    """

    name: ClassVar[str] = "rotation"
    on_input: ClassVar[bool] = True

    blocks: torch.Tensor

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self._change()))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        outputs, inputs = weight.shape
        parted = weight.reshape(outputs, len(self.blocks), -1)
        return torch.einsum("ons,nts->ont", parted, self.blocks.to(weight)).reshape(outputs, inputs)

    def family(self) -> Family:
        return Family(self.name, self.blocks.shape[-1])

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        return {"change": tuple(self.blocks.shape)}

    def values(self) -> dict[str, torch.Tensor]:
        return {"change": self._change()}  # so that a slot of zeros does nothing

    def _change(self) -> torch.Tensor:
        return self.blocks - torch.eye(self.blocks.shape[-1]).to(self.blocks)

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        change = weights["change"]
        rows, blocks, size = change.shape[:3]
        parted = y.to(change.dtype).reshape(rows, -1, blocks, size)
        added = torch.einsum("rtns,rnsk->rtnk", parted, change)
        return y + added.reshape(y.shape).to(y.dtype)


@dataclass(frozen=True)
class PairRotation(DeltaKind):
    """``y <- first * y + second * swap(y)``, which rotates and scales pairs of outputs (RoAd).

    In each group of outputs one half is paired with the other: ``swap(y1, y2) = (-y2, y1)``.

    Attributes:
        first: ``[out]``.
        second: ``[out]``.
        group: number of outputs in a group.
    """

    name: ClassVar[str] = "pair_rotation"

    first: torch.Tensor
    second: torch.Tensor
    group: int

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(torch.cat([self.first - 1, self.second])))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return self.changed_bias(weight.T).T

    def changed_bias(self, bias: torch.Tensor) -> torch.Tensor:
        return bias * self.first.to(bias) + _swapped(bias, self.group) * self.second.to(bias)

    def family(self) -> Family:
        return Family(self.name, self.group)

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        return {"first": tuple(self.first.shape), "second": tuple(self.second.shape)}

    def values(self) -> dict[str, torch.Tensor]:
        return {"first": self.first - 1, "second": self.second}

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        first, second = per_row(weights["first"], y), per_row(weights["second"], y)
        return y + first * y + second * _swapped(y, at.size)


def _swapped(y: torch.Tensor, group: int) -> torch.Tensor:
    halves = y.reshape(*y.shape[:-1], -1, 2, group // 2)
    return torch.stack([-halves[..., 1, :], halves[..., 0, :]], dim=-2).reshape(y.shape)
