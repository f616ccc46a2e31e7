"""SHiRA: a few entries of each weight are trained, at random places.

Bhardwaj et al.: Sparse High Rank Adapters, https://arxiv.org/abs/2406.13175

    W' = W + S          S has r (in + out) nonzero entries
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights, shapes

if TYPE_CHECKING:
    from torch import nn

    from pefttools.deltas import DeltaKind


class ShiraOptions(LayerOptions):
    """Options of SHiRA."""

    r: int | None = Field(
        None, ge=1, description="as many entries as LoRA of this rank has parameters; default: up to 8"
    )
    seed: int = Field(0, ge=0, description="seed for the places of the entries")


class Shira(PeftWeights[ShiraOptions]):
    """Sparse changes at random places."""

    name = "shira"
    summary = "a few entries of each weight, at random places"
    paper = "https://arxiv.org/abs/2406.13175"
    config = ShiraOptions
    learning_rate = 1e-3
    peft_class = "ShiraConfig"
    quantized = QUANTIZED
    on_meta = False
    twice = False  # PEFT stores the places of both with each

    def sizes(self, model: nn.Module, config: ShiraOptions, names: list[str]) -> dict[str, Any]:
        return {
            "r": config.r
            or min(8, *(inputs * outputs // (inputs + outputs) for inputs, outputs in shapes(model, names)))
        }

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import Sparse

        return [Sparse(layer.shira_indices[adapter].int(), layer.shira_weight[adapter])]
