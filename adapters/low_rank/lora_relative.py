"""The base of LoRA's relatives that PEFT configures through LoRA's own configuration."""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field

from ..peft_weights import TORCHAO, DropoutOptions, PeftWeights


class LoraRelativeOptions(DropoutOptions):
    """Options of LoRA and its relatives."""

    r: int = Field(8, ge=1, description="rank of the update")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")


RelativeT = TypeVar("RelativeT", bound=LoraRelativeOptions)


class LoraRelative(PeftWeights[RelativeT]):
    """A relative of LoRA: `sizes` returns its part of PEFT's configuration of LoRA."""

    learning_rate = 2e-3
    peft_class = "LoraConfig"
    quantized = TORCHAO
    rank_option = "r"
