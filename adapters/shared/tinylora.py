"""TinyLoRA: a handful of numbers per layer, along the weight's own singular vectors.

Learning to Reason in 13 Parameters, https://arxiv.org/abs/2602.04118

    y = W x + U S (sum over i of v_i P_i) V^T x          U, S, V of the weight; P_i random; v trained
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import DropoutOptions, PeftWeights


class TinyLoraOptions(DropoutOptions):
    """Options of TinyLoRA."""

    r: int = Field(2, ge=1, description="number of singular vectors")
    u: int = Field(64, ge=1, description="trained numbers per layer")
    tying: float = Field(0.0, ge=0, le=1, description="share of layers that share their numbers")
    save_projection: bool = Field(True, description="store the random matrices with the adapter, not only their seed")


class TinyLora(PeftWeights[TinyLoraOptions]):
    """A few trained numbers along singular vectors."""

    name = "tinylora"
    summary = "a few numbers per layer, along its weight's singular vectors"
    paper = "https://arxiv.org/abs/2602.04118"
    config = TinyLoraOptions
    learning_rate = 1e-3
    peft_class = "TinyLoraConfig"
    rank_option = "r"
    conv1d = True
