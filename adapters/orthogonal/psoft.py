"""PSOFT: a rotation within the principal subspace of a weight.

Efficient Orthogonal Fine-Tuning with Principal Subspace Adaptation,
https://openreview.net/forum?id=FSHrinMArK

    y = W x + B (diag(b) R diag(a) - I) A x          B A the principal part of W, frozen; R orthogonal
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import DropoutOptions, PeftWeights, shapes

if TYPE_CHECKING:
    from torch import nn


class PSOFTOptions(DropoutOptions):
    """Options of PSOFT."""

    r: int | None = Field(None, ge=2, description="size of the subspace; default: up to 32")


class PSOFT(PeftWeights[PSOFTOptions]):
    """Rotations within principal subspaces."""

    name = "psoft"
    summary = "a rotation within the weight's principal subspace"
    paper = "https://openreview.net/forum?id=FSHrinMArK"
    config = PSOFTOptions
    learning_rate = 2e-3
    peft_class = "PsoftConfig"
    rank_option = "r"

    def sizes(self, model: nn.Module, config: PSOFTOptions, names: list[str]) -> dict[str, Any]:
        r = config.r or min(32, *map(min, shapes(model, names)))
        return {"r": r, "psoft_alpha": r}  # a scale of one: with another the subspace would not only be rotated
