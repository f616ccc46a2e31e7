"""C3A: circular convolutions, block by block.

Parameter-Efficient Fine-Tuning via Circular Convolution, https://arxiv.org/abs/2407.19342

    y = W x + C x          each block of C is circulant: made of one trained row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import TORCHAO, LayerOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class C3AOptions(LayerOptions):
    """Options of C3A."""

    block_size: int | None = Field(
        None,
        ge=2,
        description="size of a block, which divides the sizes of all layers; none: the largest up to 64 that does",
    )


class C3A(PeftWeights[C3AOptions]):
    """Block-circulant changes of weights."""

    name = "c3a"
    summary = "block-circulant changes of the weight"
    paper = "https://arxiv.org/abs/2407.19342"
    config = C3AOptions
    learning_rate = 1e-1
    peft_class = "C3AConfig"
    quantized = TORCHAO
    # zeros: PEFT's default starts beside the base
    always = {"init_weights": True}  # noqa: RUF012
    divides = "block_size"

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        import torch

        from pefttools.deltas import Circulant

        # PEFT divides by the number of inputs, and its kernels are rows: turned around they are columns.
        rows = layer.c3a_kernel[adapter] / layer.in_features
        return [Circulant(torch.cat([rows[..., :1], rows[..., 1:].flip(-1)], dim=-1))]
