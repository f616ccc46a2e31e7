"""VeRA: two random matrices shared by all layers, and trained vectors on them.

Kopiczko, Blankevoort, Asano: VeRA: Vector-based Random Matrix Adaptation, https://arxiv.org/abs/2310.11454

    y = W x + diag(b) B diag(d) A x          A, B random and shared; b, d trained
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class VeRAOptions(DropoutOptions):
    """Options of VeRA."""

    r: int = Field(256, ge=1, description="rank of the shared matrices")
    save_projection: bool = Field(True, description="store the shared matrices with the adapter, not only their seed")


class VeRA(PeftWeights[VeRAOptions]):
    """Trained vectors on shared random matrices."""

    name = "vera"
    summary = "vectors on random matrices that all layers share"
    paper = "https://arxiv.org/abs/2310.11454"
    config = VeRAOptions
    learning_rate = 2e-2
    peft_class = "VeraConfig"
    rank_option = "r"
    quantized = QUANTIZED
    conv1d = True

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import SharedLowRank

        a, b = layer.vera_A[adapter][:, : layer.in_features], layer.vera_B[adapter][: layer.out_features]
        return [SharedLowRank(a, b, layer.vera_lambda_d[adapter], layer.vera_lambda_b[adapter])]
