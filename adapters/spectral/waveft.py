"""WaveFT: the change of a weight is given by a few of its wavelet coefficients.

Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets, https://arxiv.org/abs/2505.12532

    y = W x + scaling IDWT(S) x          n entries of S, at random places, are trained
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights, shapes

if TYPE_CHECKING:
    from torch import nn

    from pefttools.deltas import DeltaKind


class WaveFTOptions(LayerOptions):
    """Options of WaveFT."""

    n: int | None = Field(None, ge=1, description="trained entries per layer; default: up to 2592")
    scaling: float = Field(25.0, gt=0, description="factor on the change")
    family: str = Field("db1", description="the wavelet")
    seed: int = Field(777, ge=0, description="seed for the places of the entries")


class WaveFT(PeftWeights[WaveFTOptions]):
    """Sparse wavelet coefficients of weight changes."""

    name = "waveft"
    summary = "a few wavelet coefficients of the change of each weight"
    paper = "https://arxiv.org/abs/2505.12532"
    config = WaveFTOptions
    learning_rate = 1e-3
    peft_class = "WaveFTConfig"
    quantized = QUANTIZED
    peft_names = {"n": "n_frequency"}  # noqa: RUF012
    conv1d = True

    def sizes(self, model: nn.Module, config: WaveFTOptions, names: list[str]) -> dict[str, Any]:
        return {"n": config.n or min(2592, *(inputs * outputs for inputs, outputs in shapes(model, names)))}

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        import torch
        from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
        from peft.tuners.waveft.wavelet import Wavelet

        from pefttools.deltas import Wavelets

        entries = layer.waveft_spectrum[adapter] * layer.waveft_scaling[adapter]
        family = layer.waveft_wavelet_family[adapter]
        shape = (layer.out_features, layer.in_features)
        if not layer.waveft_use_idwt[adapter]:
            return []
        # PEFT puts the places of the weight in the middle of the coefficients.
        padded = [size + more + (size + more) % 2 for size, more in zip(shape, WAVELET_REDUCTIONS[family], strict=True)]
        offsets = torch.tensor([(more - size) // 2 for more, size in zip(padded, shape, strict=True)])
        halves = torch.tensor(padded)[:, None] // 2
        wavelet = Wavelet(family)
        filters = torch.tensor([wavelet.rec_lo, wavelet.rec_hi], dtype=entries.dtype, device=entries.device)
        places = layer.waveft_indices[adapter].cpu() + offsets[:, None]
        # It takes the upper right quarter to be high-pass along the rows, the lower left one along the columns.
        high = places >= halves
        mixed = high[0] != high[1]
        places = torch.where(mixed, places + torch.where(high, -halves, halves), places)
        return [Wavelets(places.int(), entries, filters, (padded[0], padded[1]), shape)]
