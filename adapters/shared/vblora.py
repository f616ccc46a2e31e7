"""VB-LoRA: low-rank updates composed from a bank of vectors that all layers share.

Li, Han, Ji: VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks, https://arxiv.org/abs/2405.15179

    each piece of A and B is a mixture of the `topk` vectors of the bank chosen by trained logits
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights


class VBLoraOptions(DropoutOptions):
    """Options of VB-LoRA."""

    r: int = Field(4, ge=1, description="rank of the updates")
    vectors: int = Field(64, ge=1, description="number of vectors in the bank")
    vector_length: int | None = Field(
        None,
        ge=1,
        description="length of a vector; must divide the sizes of all layers; default: the largest up to 64 that does",
    )
    topk: int = Field(2, ge=1, description="number of vectors in a mixture")


class VBLora(PeftWeights[VBLoraOptions]):
    """Low-rank updates from a shared bank of vectors."""

    name = "vblora"
    summary = "low-rank updates mixed from a bank of vectors that all layers share"
    paper = "https://arxiv.org/abs/2405.15179"
    config = VBLoraOptions
    learning_rate = 1e-2
    peft_class = "VBLoRAConfig"
    rank_option = "r"
    quantized = QUANTIZED
    conv1d = True
    divides = "vector_length"
