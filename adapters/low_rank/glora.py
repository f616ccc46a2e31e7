"""GLoRA: changes of a weight and of a bias, in several forms at once.

Chavan et al.: One-for-All: Generalized LoRA, https://arxiv.org/abs/2306.07967

    W' = W + W A + B          A, B low rank
    b' = b + b D + E + W C    C low rank, D, E scalars
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import LayerOptions, PeftWeights


class GLoraOptions(LayerOptions):
    """Options of GLoRA."""

    r: int = Field(4, ge=1, description="rank of A, B and C")


class GLora(PeftWeights[GLoraOptions]):
    """Generalized low-rank updates of weights and biases."""

    name = "glora"
    summary = "low-rank updates of the weight, multiplicative and additive, and of the bias"
    paper = "https://arxiv.org/abs/2306.07967"
    config = GLoraOptions
    learning_rate = 1e-3
    peft_class = "GloraConfig"
    changes_bias = True
