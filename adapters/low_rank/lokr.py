"""LoKr: the Kronecker product of a small matrix and a low-rank one.

Yeh et al.: Navigating Text-to-Image Customization (LyCORIS), https://arxiv.org/abs/2309.14859

    y = W x + (alpha / r) (C (x) B A) x          (x) the Kronecker product
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..peft_weights import TORCHAO, DropoutOptions, PeftWeights

if TYPE_CHECKING:
    from pefttools.deltas import DeltaKind


class LoKrOptions(DropoutOptions):
    """Options of LoKr."""

    r: int = Field(8, ge=1, description="rank of the second factor")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r, if the second factor is low rank")
    factor: int = Field(-1, ge=-1, description="size of the first factor; -1: near the square root of the layer's")


class LoKr(PeftWeights[LoKrOptions]):
    """Kronecker products."""

    name = "lokr"
    summary = "Kronecker product of two small matrices"
    paper = "https://arxiv.org/abs/2309.14859"
    config = LoKrOptions
    learning_rate = 5e-3
    peft_class = "LoKrConfig"
    quantized = frozenset({"int8"}) | TORCHAO
    peft_names = {"dropout": "rank_dropout"}  # noqa: RUF012

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        from pefttools.deltas import Kronecker

        def factor(name: str) -> Any:
            whole = getattr(layer, name)
            return (
                whole[adapter]
                if adapter in whole
                else getattr(layer, f"{name}_a")[adapter] @ getattr(layer, f"{name}_b")[adapter]
            )

        return [Kronecker(factor("lokr_w1") * layer.scaling[adapter], factor("lokr_w2"))]
