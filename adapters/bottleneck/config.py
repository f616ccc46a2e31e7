"""Options of bottleneck adapters."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pefttools.methods import MethodConfig

#: name of the network below its site
CHILD = "bottleneck"
#: published values of a placement that differ from the field's default
_PUBLISHED: dict[str, dict[str, Any]] = {
    "pfeiffer": {"activation": "relu"},
    "parallel": {"activation": "relu", "scale": 4.0},
}


class BottleneckConfig(MethodConfig):
    """Options of bottleneck adapters."""

    placement: Literal["houlsby", "pfeiffer", "parallel", "feed-forward"] = Field(
        "houlsby", description="where the adapters are placed in a block"
    )
    size: int = Field(24, ge=1, description="width of the bottleneck")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(
        "gelu", description="non-linearity in the bottleneck; relu by default for pfeiffer and parallel"
    )
    scale: float = Field(1.0, gt=0, description="factor on the adapter's output; 4 by default for parallel")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the bottleneck during training")
    first_layer: int = Field(
        0, ge=0, description="the first block that gets adapters; earlier ones have none (AdapterDrop)"
    )
    targets: list[str] = Field(
        default_factory=list,
        description="modules after whose output an adapter is placed, for pfeiffer the norms that end a block; empty: "
        "derived from the architecture",
    )
    inputs: list[str] = Field(
        default_factory=list,
        description="parallel only: modules whose input the adapters read, one for each of targets",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        # In the options themselves, so that an artifact records what it was trained with.
        if not isinstance(given, dict):
            return given
        placement = given.get("placement")
        return {**(_PUBLISHED.get(placement, {}) if isinstance(placement, str) else {}), **given}
