"""MiSS: one small matrix, shared by all blocks of a weight.

MiSS: Balancing LoRA Performance and Efficiency with Simple Shard Sharing, https://arxiv.org/abs/2409.15371

    y = W x + D (sum of x over every r-th element)          only D [out, r] is trained
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights, shapes

if TYPE_CHECKING:
    from torch import nn


class MiSSOptions(DropoutOptions):
    """Options of MiSS."""

    r: int | None = Field(None, ge=2, description="rank along the inputs; default: up to 64")


class MiSS(PeftWeights[MiSSOptions]):
    """A shared shard of a weight."""

    name = "miss"
    summary = "one small matrix shared by all blocks of a weight"
    paper = "https://arxiv.org/abs/2409.15371"
    config = MiSSOptions
    learning_rate = 1e-3
    peft_class = "MissConfig"
    rank_option = "r"
    quantized = QUANTIZED

    def sizes(self, model: nn.Module, config: MiSSOptions, names: list[str]) -> dict[str, Any]:
        return {"r": config.r or min(64, *(inputs for inputs, outputs in shapes(model, names)))}
