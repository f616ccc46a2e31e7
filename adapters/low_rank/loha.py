"""LoHa: the Hadamard product of two low-rank updates.

Hyeon-Woo, Ye-Bin, Oh: FedPara, https://arxiv.org/abs/2108.06098

    y = W x + (alpha / r) (B1 A1 * B2 A2) x          * element by element

Two factors of rank r give a change with a rank of up to r squared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ..peft_weights import TORCHAO, DropoutOptions, PeftWeights


class LoHaOptions(DropoutOptions):
    """Options of LoHa."""

    r: int = Field(8, ge=1, description="rank of each of the two factors")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")


class LoHa(PeftWeights[LoHaOptions]):
    """Element-wise products of two low-rank updates."""

    name = "loha"
    summary = "element-wise product of two low-rank updates"
    paper = "https://arxiv.org/abs/2108.06098"
    config = LoHaOptions
    learning_rate = 5e-3
    peft_class = "LoHaConfig"
    quantized = frozenset({"int8"}) | TORCHAO
    peft_names = {"dropout": "rank_dropout"}  # noqa: RUF012

    def rank(self, options: Mapping[str, Any], inputs: int, outputs: int) -> int:
        return int(options["r"]) ** 2
