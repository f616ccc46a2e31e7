"""FourierFT: the change of a weight is given by a few entries of its Fourier transform.

Gao et al.: Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, https://arxiv.org/abs/2405.03003

    y = W x + scaling Re(IDFT(S)) x          n entries of S, at random places, are trained
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights, shapes

if TYPE_CHECKING:
    from torch import nn

    from pefttools.deltas import DeltaKind


class FourierFTOptions(LayerOptions):
    """Options of FourierFT."""

    n: int | None = Field(None, ge=1, description="trained entries per layer; default: up to 1000")
    scaling: float = Field(150.0, gt=0, description="factor on the change")
    seed: int = Field(777, ge=0, description="seed for the places of the entries")


class FourierFT(PeftWeights[FourierFTOptions]):
    """Sparse Fourier coefficients of weight changes."""

    name = "fourierft"
    summary = "a few Fourier coefficients of the change of each weight"
    paper = "https://arxiv.org/abs/2405.03003"
    config = FourierFTOptions
    learning_rate = 5e-2
    peft_class = "FourierFTConfig"
    quantized = QUANTIZED
    peft_names = {"n": "n_frequency"}  # noqa: RUF012
    # zeros: PEFT's default starts far from the base
    always = {"init_weights": True}  # noqa: RUF012
    conv1d = True

    def sizes(self, model: nn.Module, config: FourierFTOptions, names: list[str]) -> dict[str, Any]:
        return {"n": config.n or min(1000, *(inputs * outputs for inputs, outputs in shapes(model, names)))}

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import Spectrum

        entries = layer.fourierft_spectrum[adapter] * layer.fourierft_scaling[adapter]
        return [Spectrum(layer.indices[adapter].int(), entries, (layer.out_features, layer.in_features))]
