"""OFT: the weight is rotated, block by block.

Qiu et al.: Controlling Text-to-Image Diffusion by Orthogonal Finetuning, https://arxiv.org/abs/2306.07280;
Liu et al.: https://arxiv.org/abs/2506.19847 (the input is rotated instead, and the inverse is a series)

    y = W R x          R block-diagonal and orthogonal, R = (I + Q) (I - Q)^-1, Q skew and trained
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights
from .blocks import blocks

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class OFTOptions(DropoutOptions):
    """Options of OFT."""

    block_size: int | None = Field(
        None,
        ge=2,
        description="size of a block; must divide the inputs of all layers; default: the largest up to 32 that does",
    )


class OFT(PeftWeights[OFTOptions]):
    """Block-wise rotations of weights."""

    name = "oft"
    summary = "block-wise rotations of the weight"
    paper = "https://arxiv.org/abs/2306.07280"
    config = OFTOptions
    learning_rate = 2e-3
    peft_class = "OFTConfig"
    quantized = QUANTIZED
    divides = "block_size"
    any_inputs = False
    divides_inputs = True
    preferred = 32

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        import torch

        from pefttools.deltas import Rotation

        rotation = layer.oft_R[adapter]
        matrix = rotation(torch.eye(layer.in_features, dtype=rotation.weight.dtype))
        return [Rotation(blocks(matrix, rotation.block_size))]
