"""Changes of weights by a few numbers, with different places for each adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pefttools.deltas.kind import DeltaKind, WeightChange


@dataclass(frozen=True)
class Sparse(DeltaKind):
    """``y += S x``, where only a few entries of ``S`` are nonzero (SHiRA, Super-Tuning).

    Attributes:
        places: row and column of each entry, ``[2, n]``.
        entries: ``[n]``.
    """

    name: ClassVar[str] = "sparse"
    stacked: ClassVar[bool] = False

    places: torch.Tensor
    entries: torch.Tensor

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.entries))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        rows, columns = self.places.long()
        return weight.index_put((rows, columns), self.entries.to(weight), accumulate=True)

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        device = next(module.parameters()).device
        (rows, columns), entries = self.places.long().to(device), self.entries.to(device)

        def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            products = x[..., columns].to(entries.dtype) * entries
            added: torch.Tensor = torch.zeros_like(y, dtype=entries.dtype).index_add(-1, rows, products)
            changed: torch.Tensor = y + added.to(y.dtype)
            return changed

        return add


@dataclass(frozen=True)
class Spectrum(WeightChange):
    """``y += Re(IDFT(S)) x``, where only a few entries of the spectrum ``S [out, in]`` are nonzero (FourierFT).

    Attributes:
        places: row and column of each entry, ``[2, n]``.
        entries: ``[n]``; a scale is folded into them.
        shape: shape of the weight, ``[out, in]``.
    """

    name: ClassVar[str] = "spectrum"
    stacked: ClassVar[bool] = False

    places: torch.Tensor
    entries: torch.Tensor
    shape: tuple[int, int]

    def dense(self) -> torch.Tensor:
        rows, columns = self.places.long()
        spectrum = self.entries.new_zeros(self.shape).index_put((rows, columns), self.entries)
        change: torch.Tensor = torch.fft.ifft2(spectrum).real
        return change

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        device = next(module.parameters()).device
        (rows, columns), entries = self.places.long().to(device), self.entries.to(device)
        outputs, inputs = self.shape
        wide = entries.dtype if entries.dtype == torch.float64 else torch.float32  # there is no FFT in fewer bits

        def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            # For real inputs: sum over i of x_i exp(2 pi j q i / in) is their transform's conjugate at q.
            seen = torch.fft.fft(x.to(wide)).conj()[..., columns] * entries.to(wide)
            spectrum = seen.new_zeros(*seen.shape[:-1], outputs).index_add(-1, rows, seen)
            added: torch.Tensor = torch.fft.ifft(spectrum).real / inputs
            changed: torch.Tensor = y + added.to(y.dtype)
            return changed

        return add
