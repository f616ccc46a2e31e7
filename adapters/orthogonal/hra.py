"""HRA: the weight is reflected, r times.

Yuan, Liu, Xu: Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection,
https://arxiv.org/abs/2405.17484

    y = W (I - 2 u_1 u_1^T) ... (I - 2 u_r u_r^T) x          the unit vectors u_i are trained
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import LayerOptions, PeftWeights


class HRAOptions(LayerOptions):
    """Options of HRA."""

    r: int = Field(8, ge=2, description="number of reflections; an even number")
    orthogonal: bool = Field(False, description="keep the vectors orthogonal to each other")


class HRA(PeftWeights[HRAOptions]):
    """Householder reflections of weights."""

    name = "hra"
    summary = "reflections of the weight"
    paper = "https://arxiv.org/abs/2405.17484"
    config = HRAOptions
    learning_rate = 5e-3
    peft_class = "HRAConfig"
    rank_option = "r"
    peft_names = {"orthogonal": "apply_GS"}  # noqa: RUF012
