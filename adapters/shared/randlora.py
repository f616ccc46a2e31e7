"""RandLoRA: a change of full rank from random matrices that all layers share.

Albert et al.: RandLoRA: Full-rank parameter-efficient fine-tuning of large models, https://arxiv.org/abs/2502.00987

    y = W x + sum over i of B_i diag(l_i) A diag(g_i) x          A, B_i random and shared; l, g trained
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class RandLoraOptions(DropoutOptions):
    """Options of RandLoRA."""

    r: int = Field(32, ge=1, description="rank of each random matrix; the larger, the fewer parameters")
    alpha: float = Field(640.0, gt=0, description="the update is scaled by alpha / r")
    save_projection: bool = Field(True, description="store the shared matrices with the adapter, not only their seed")


class RandLora(PeftWeights[RandLoraOptions]):
    """Full-rank updates from shared random matrices."""

    name = "randlora"
    summary = "full-rank updates from random matrices that all layers share"
    paper = "https://arxiv.org/abs/2502.00987"
    config = RandLoraOptions
    learning_rate = 1e-3
    peft_class = "RandLoraConfig"
    quantized = QUANTIZED
    conv1d = True

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import SharedBases

        smaller, larger = sorted((layer.in_features, layer.out_features))
        inner = layer.randlora_lambda[adapter] * layer.scaling[adapter]
        a = layer.randlora_A[adapter][:, 0, :smaller]
        b = layer.randlora_B[adapter][:larger, : inner.shape[1]].flatten(1)
        return [SharedBases(a, b, inner, layer.randlora_gamma[adapter], layer.in_features == smaller)]
