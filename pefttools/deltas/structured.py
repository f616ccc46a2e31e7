"""Changes of weights that are built from small matrices, but as large as the weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from pefttools.deltas.kind import At, DeltaKind, Family
from pefttools.deltas.low_rank import as_tokens


@dataclass(frozen=True)
class Kronecker(DeltaKind):
    """``y += (left (x) right) x``, the Kronecker product (LoKr); a scale is folded into `left`.

    Attributes:
        left: ``[a, c]``.
        right: ``[out / a, in / c]``.
    """

    name: ClassVar[str] = "kronecker"

    left: torch.Tensor
    right: torch.Tensor

    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.left) * torch.linalg.matrix_norm(self.right))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + torch.kron(self.left, self.right).to(weight)

    def family(self) -> Family:
        return Family(self.name, form="x".join(map(str, self.left.shape)))

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        return {"left": tuple(self.left.shape), "right": tuple(self.right.shape)}

    def values(self) -> dict[str, torch.Tensor]:
        return {"left": self.left, "right": self.right}

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        left, right = weights["left"], weights["right"]
        parted = as_tokens(x).to(left.dtype).reshape(len(x), -1, left.shape[2], right.shape[2])
        inner = torch.einsum("rtcd,rbd->rtcb", parted, right)
        added = torch.einsum("rtcb,rac->rtab", inner, left)
        return y + added.reshape(y.shape).to(y.dtype)


@dataclass(frozen=True)
class Circulant(DeltaKind):
    """``y += C x``, where each block of ``C`` is circulant: its columns are one column, rotated (C3A).

    Attributes:
        columns: the first column of each block, ``[out / size, in / size, size]``.
    """

    name: ClassVar[str] = "circulant"

    columns: torch.Tensor

    def dense(self) -> torch.Tensor:
        """The change of the weight, ``[out, in]``."""
        outer, inner, size = self.columns.shape
        turned = (torch.arange(size)[:, None] - torch.arange(size)) % size
        return self.columns[:, :, turned].permute(0, 2, 1, 3).reshape(outer * size, inner * size)

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.columns) * self.columns.shape[-1] ** 0.5)

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.dense().to(weight)

    def family(self) -> Family:
        return Family(self.name, self.columns.shape[-1])

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        return {"columns": tuple(self.columns.shape)}

    def values(self) -> dict[str, torch.Tensor]:
        return {"columns": self.columns}

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        columns = weights["columns"]
        wide = columns.dtype if columns.dtype == torch.float64 else torch.float32  # there is no FFT in fewer bits
        columns = columns.to(wide)
        parted = as_tokens(x).to(wide).reshape(len(x), -1, *columns.shape[2:])
        # A product with rotated columns is a convolution: in the frequency domain, a product.
        product = torch.einsum("rtif,roif->rtof", torch.fft.rfft(parted), torch.fft.rfft(columns))
        added: torch.Tensor = torch.fft.irfft(product, n=columns.shape[-1])
        return y + added.reshape(y.shape).to(y.dtype)
