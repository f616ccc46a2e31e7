"""Super-Tuning: the largest entries of each weight are trained.

Super-Tuning: https://arxiv.org/abs/2607.09287

    W' = W + S          S is zero except for the entries where W is largest (or smallest)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import LayerOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class SuperTuningOptions(LayerOptions):
    """Options of Super-Tuning."""

    sparsity: float = Field(0.99, ge=0, lt=1, description="share of entries that are left unchanged")
    select_top: bool = Field(True, description="train the largest entries; false: the smallest")


class SuperTuning(PeftWeights[SuperTuningOptions]):
    """Sparse changes at the largest entries."""

    name = "supertuning"
    summary = "the largest entries of each weight"
    paper = "https://arxiv.org/abs/2607.09287"
    config = SuperTuningOptions
    learning_rate = 2e-3
    peft_class = "SupertuningConfig"

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        import torch

        from pefttools.deltas import Sparse

        flat, inputs = layer.supertuning_indices[adapter], layer.in_features
        return [Sparse(torch.stack([flat // inputs, flat % inputs]).int(), layer.supertuning_values[adapter])]
