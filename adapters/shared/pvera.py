"""PVeRA: VeRA whose inner activations are drawn from a trained distribution.

PVeRA: Probabilistic Vector-Based Random Matrix Adaptation, https://arxiv.org/abs/2512.07703

    y = W x + diag(b) B z,   z ~ N(diag(d1) A x, exp(diag(d2) A x))          at inference z is its mean
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


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
    learning_rate = 5e-3
    peft_class = "PveraConfig"
    rank_option = "r"
    quantized = QUANTIZED
    conv1d = True

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import SharedLowRank

        # The second half of A's outputs are variances, which matter only in training.
        b = layer.pvera_B[adapter][: layer.out_features]
        means = b.shape[1]
        a = layer.pvera_A[adapter][:means, : layer.in_features]
        return [SharedLowRank(a, b, layer.pvera_lambda_d[adapter][:means], layer.pvera_lambda_b[adapter])]
