"""RoAd: the outputs of a layer are rotated in pairs.

Liao, Monz: 3-in-1: 2D Rotary Adaptation for Efficient Finetuning, Efficient Batching and Composability,
https://arxiv.org/abs/2409.00119

    (y_i, y_j) = alpha (cos t  -sin t) (W x)_i
                       (sin t   cos t) (W x)_j          an angle and a factor for each pair
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class RoAdOptions(LayerOptions):
    """Options of RoAd."""

    kind: Literal["road_1", "road_2", "road_4"] = Field(
        "road_1", description="numbers per pair: an angle and a factor, two of each, or four"
    )
    group_size: int | None = Field(
        None,
        ge=2,
        description="outputs among which pairs are made; must divide all layer sizes; default: the largest up to 64",
    )


class RoAd(PeftWeights[RoAdOptions]):
    """Rotations of outputs in pairs."""

    name = "road"
    summary = "rotations of a layer's outputs, in pairs"
    paper = "https://arxiv.org/abs/2409.00119"
    config = RoAdOptions
    learning_rate = 1e-2
    peft_class = "RoadConfig"
    quantized = QUANTIZED
    peft_names = {"kind": "variant"}  # noqa: RUF012
    divides = "group_size"

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from peft.tuners.road.layer import _prepare_cols

        from pefttools.deltas import PairRotation

        group, angles, factors = layer.group_size[adapter], layer.road_theta[adapter], layer.road_alpha[adapter]
        first, second = _prepare_cols(layer.variant[adapter], group, angles, factors)
        return [PairRotation(first, second, group)]
