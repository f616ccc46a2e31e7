"""WaveFT: the change of a weight by a few of its wavelet coefficients.

Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets, https://arxiv.org/abs/2505.12532

    y = W x + scaling IDWT(S) x          n entries of S, at random places, are trained
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights, shapes

if TYPE_CHECKING:
    from torch import nn


class WaveFTOptions(LayerOptions):
    """Options of WaveFT."""

    n: int | None = Field(None, ge=1, description="trained entries per layer; none: at most 2592")
    scaling: float = Field(25.0, gt=0, description="factor on the change")
    family: str = Field("db1", description="the wavelet")
    seed: int = Field(777, ge=0, description="of the places of the entries")


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
