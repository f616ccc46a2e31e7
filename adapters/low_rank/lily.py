"""Lily: low-rank updates with factors that layers share, mixed by a router.

Low-Rank Interconnected Adaptation across Layers, https://arxiv.org/abs/2407.09946

    y = W x + sum over j of s_j(x) B_j A x          neighbouring layers share A, all layers the B_j

The weights ``s(x)`` of the mixture depend on the input, so the result is not a change of a weight.
"""

from __future__ import annotations

from pydantic import Field

from pefttools.methods import Capabilities

from ..peft_weights import TORCHAO, LayerOptions, PeftWeights


class LilyOptions(LayerOptions):
    """Options of Lily."""

    r: int = Field(32, ge=1, description="rank of the update")
    layers_per_a: int = Field(1, ge=1, description="consecutive layers that share one A")
    experts: int = Field(2, ge=2, description="number of shared matrices B")
    scaling: float = Field(1.0, gt=0, description="factor on the update")


class Lily(PeftWeights[LilyOptions]):
    """Low-rank updates with shared factors and a router."""

    name = "lily"
    summary = "low-rank updates from shared factors, mixed by a router"
    paper = "https://arxiv.org/abs/2407.09946"
    config = LilyOptions
    # Its router looks at all tokens of a batch.
    capabilities = Capabilities(effect="modules", position_wise=False)
    learning_rate = 1e-3
    peft_class = "LilyConfig"
    quantized = frozenset({"int8"}) | TORCHAO
    peft_names = {"layers_per_a": "stride_A", "experts": "num_B"}  # noqa: RUF012
