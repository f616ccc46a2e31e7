"""PVeRA: VeRA whose inner activations are drawn from a trained distribution.

PVeRA: Probabilistic Vector-Based Random Matrix Adaptation, https://arxiv.org/abs/2512.07703

    y = W x + diag(b) B z,   z ~ N(diag(d1) A x, exp(diag(d2) A x))          at inference z is its mean
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights


class PVeRAOptions(DropoutOptions):
    """Options of PVeRA."""

    r: int = Field(128, ge=1, description="rank of the shared matrices")
    save_projection: bool = Field(True, description="store the shared matrices with the adapter, not only their seed")


class PVeRA(PeftWeights[PVeRAOptions]):
    """Trained distributions on shared random matrices."""

    name = "pvera"
    summary = "VeRA with activations drawn from a trained distribution"
    paper = "https://arxiv.org/abs/2512.07703"
    config = PVeRAOptions
    learning_rate = 2e-2
    peft_class = "PveraConfig"
    rank_option = "r"
    quantized = QUANTIZED
    conv1d = True
