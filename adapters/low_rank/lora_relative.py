"""What relatives of LoRA share that PEFT knows by a part of LoRA's own configuration."""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import DropoutOptions


class LoraRelativeOptions(DropoutOptions):
    """Options of LoRA and its relatives."""

    r: int = Field(8, ge=1, description="rank of the update")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")
