"""BOFT: the weight is rotated by a product of sparse rotations, and its outputs are scaled.

Liu et al.: Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, https://arxiv.org/abs/2311.06243

    y = s * W R x          R block-diagonal and orthogonal; s a trained factor per output

The paper's R is a product of several such matrices, with permutations in between. For more than one of them PEFT needs
a CUDA kernel, which it compiles on first use; here only one is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights
from .blocks import blocks

if TYPE_CHECKING:
    from torch import nn

    from pefttools.deltas import DeltaKind


class BOFTOptions(DropoutOptions):
    """Options of BOFT."""

    block_size: int | None = Field(
        None,
        ge=2,
        description="size of a block; must divide the inputs of all layers; default: the largest up to 8 that does",
    )


class BOFT(PeftWeights[BOFTOptions]):
    """Rotations and factors."""

    name = "boft"
    summary = "block-wise rotations of the weight, and factors of its outputs"
    paper = "https://arxiv.org/abs/2311.06243"
    config = BOFTOptions
    learning_rate = 5e-3
    peft_class = "BOFTConfig"
    quantized = QUANTIZED
    on_meta = False
    divides = "block_size"
    divides_inputs = True
    preferred = 8
    always = {"boft_n_butterfly_factor": 1}  # noqa: RUF012

    def decays_to(self, model: nn.Module, config: BOFTOptions, name: str) -> float | None:
        return 1.0 if ".boft_s." in name else 0.0

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import Rotation, WeightScale

        matrix, scale = layer.get_delta_weight(adapter)
        return [Rotation(blocks(matrix, layer.boft_R[adapter].shape[-1])), WeightScale(scale.flatten())]
