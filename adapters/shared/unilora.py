"""Uni-LoRA: all low-rank updates of a model from one short vector.

Uni-LoRA: One Vector is All You Need, https://arxiv.org/abs/2506.00799

    every entry of every A and B is an entry of one trained vector, chosen at random and fixed
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import TORCHAO, DropoutOptions, PeftWeights


class UniLoraOptions(DropoutOptions):
    """Options of Uni-LoRA."""

    r: int = Field(4, ge=1, description="rank of the updates")
    size: int = Field(256, ge=1, description="length of the vector")
    save_indices: bool = Field(
        True, description="store the random indices with the adapter, so that it needs no identical random generator"
    )


class UniLora(PeftWeights[UniLoraOptions]):
    """Low-rank updates from one shared vector."""

    name = "unilora"
    summary = "all low-rank updates from one short vector"
    paper = "https://arxiv.org/abs/2506.00799"
    config = UniLoraOptions
    learning_rate = 5e-2
    peft_class = "UniLoraConfig"
    quantized = TORCHAO
    rank_option = "r"
    on_meta = False
    peft_names = {"size": "theta_d_length"}  # noqa: RUF012
    conv1d = True
