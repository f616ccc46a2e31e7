"""Changes of weights by a few of their wavelet coefficients (WaveFT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import conv1d, conv_transpose1d, pad

from pefttools.deltas.kind import WeightChange


@dataclass(frozen=True)
class Wavelets(WeightChange):
    """``y += R_out S R_in^T x``, where only a few coefficients ``S`` are nonzero and ``R`` is one level of synthesis.

    Of the coefficients of a side the first half belongs to the low-pass filter, the second to the high-pass one.

    Attributes:
        places: row and column of each coefficient, ``[2, n]``.
        entries: ``[n]``; a scale is folded into them.
        filters: low-pass and high-pass filter of the synthesis, ``[2, length]``, of an even length.
        sizes: sizes of ``S``, ``(rows, columns)``, both even.
        shape: shape of the weight, ``[out, in]``: the middle of what the synthesis gives.
    """

    name: ClassVar[str] = "wavelets"
    stacked: ClassVar[bool] = False

    places: torch.Tensor
    entries: torch.Tensor
    filters: torch.Tensor
    sizes: tuple[int, int]
    shape: tuple[int, int]

    def dense(self) -> torch.Tensor:
        rows, columns = self.places.long()
        coefficients = self.entries.new_zeros(self.sizes).index_put((rows, columns), self.entries)
        down = self._synthesis(coefficients.T, self.shape[0]).T
        return self._synthesis(down, self.shape[1])

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        own = self.to(next(module.parameters()).device)
        rows, columns = own.places.long()

        def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            seen = own._transposed(x.to(own.entries.dtype), own.sizes[1])[..., columns] * own.entries
            found = seen.new_zeros(*seen.shape[:-1], own.sizes[0]).index_add(-1, rows, seen)
            return y + own._synthesis(found, own.shape[0]).to(y.dtype)

        return add

    def _synthesis(self, coefficients: torch.Tensor, size: int) -> torch.Tensor:
        """``R c`` for ``c [..., coefficients]``, cut to the size."""
        halves = coefficients.reshape(-1, 2, coefficients.shape[-1] // 2)
        whole = conv_transpose1d(halves, self.filters[:, None], stride=2)[:, 0]
        begin = self._cut(coefficients.shape[-1], size)
        return whole[:, begin : begin + size].reshape(*coefficients.shape[:-1], size)

    def _transposed(self, x: torch.Tensor, coefficients: int) -> torch.Tensor:
        """``R^T x`` for ``x [..., size]``."""
        size, length = x.shape[-1], self.filters.shape[-1]
        begin = self._cut(coefficients, size)
        whole = coefficients + length - 2
        padded = pad(x.reshape(-1, 1, size), (begin, whole - begin - size))
        return conv1d(padded, self.filters[:, None], stride=2).reshape(*x.shape[:-1], coefficients)

    def _cut(self, coefficients: int, size: int) -> int:
        """Where the weight begins in what the synthesis gives: after the filters' overlap, and in the middle."""
        edge = (2 * self.filters.shape[-1] - 3) // 2
        return edge + (coefficients + self.filters.shape[-1] - 2 - 2 * edge - size) // 2
