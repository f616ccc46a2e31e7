"""GraLoRA: a low-rank update for each block of a weight.

GraLoRA: Granular Low-Rank Adaptation, https://arxiv.org/abs/2505.20355

    +-------+-------+
    | B A   | B A   |     k x k blocks, each with a rank of r / k: as many parameters as LoRA's,
    +-------+-------+     and a rank that is k times as high
    | B A   | B A   |
    +-------+-------+
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ..peft_weights import TORCHAO, DropoutOptions, PeftWeights


class GraLoraOptions(DropoutOptions):
    """Options of GraLoRA."""

    r: int = Field(32, ge=1, description="rank; a multiple of blocks")
    alpha: int = Field(64, ge=1, description="the update is scaled by alpha / r")
    blocks: int = Field(2, ge=1, description="blocks along each side of a weight")


class GraLora(PeftWeights[GraLoraOptions]):
    """Low-rank updates block by block."""

    name = "gralora"
    summary = "low-rank updates, one for each block of a weight"
    paper = "https://arxiv.org/abs/2505.20355"
    config = GraLoraOptions
    learning_rate = 2e-3
    peft_class = "GraloraConfig"
    quantized = TORCHAO
    any_inputs = False
    peft_names = {"blocks": "gralora_k"}  # noqa: RUF012
    conv1d = True

    def rank(self, options: Mapping[str, Any], inputs: int, outputs: int) -> int:
        return (int(options["r"]) + int(options["hybrid_r"])) * int(options["gralora_k"])
