"""DeLoRA: a low-rank update whose strength is decoupled from its direction.

Bini, Girrbach, Akata: Decoupling Angles and Strength in Low-rank Adaptation, https://arxiv.org/abs/2503.18225

    y = W x + (lambda |W| / r) sum over i of b_i a_i^T x / (|b_i| |a_i|)

Each rank-one part is normalised; the trained ``lambda`` bounds how far the weight can go.
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import DropoutOptions, PeftWeights


class DeLoraOptions(DropoutOptions):
    """Options of DeLoRA."""

    r: int = Field(8, ge=1, description="rank of the update")
    strength: float = Field(3.0, gt=0, description="initial value of the bound, which is trained too")


class DeLora(PeftWeights[DeLoraOptions]):
    """Normalised low-rank updates with a trained bound."""

    name = "delora"
    summary = "low-rank updates, with direction and strength decoupled"
    paper = "https://arxiv.org/abs/2503.18225"
    config = DeLoraOptions
    learning_rate = 5e-3
    peft_class = "DeloraConfig"
    rank_option = "r"
    peft_names = {"strength": "delora_lambda"}  # noqa: RUF012
