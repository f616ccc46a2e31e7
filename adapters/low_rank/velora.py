"""VeLoRA: LoRA that keeps a small projection of its inputs for the backward pass, instead of the inputs.

Miles et al.: VeLoRA: Memory Efficient Training using Rank-1 Sub-Token Projections, https://arxiv.org/abs/2405.17991

    y = W x + (alpha / r) B A x,    grad A = (B^T grad y) (v v^T x)^T     v: the mean of a batch's groups of inputs

The gradient of A is an approximation, all others are exact.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .lora_relative import LoraRelative, LoraRelativeOptions

if TYPE_CHECKING:
    from torch import nn


class VeLoraOptions(LoraRelativeOptions):
    """Options of VeLoRA."""

    groups: int = Field(64, ge=1, description="number of groups of inputs, for each of which one number is kept")


class VeLora(LoraRelative[VeLoraOptions]):
    """Low-rank updates trained on projections of their inputs."""

    name = "velora"
    summary = "low-rank updates that keep projections of their inputs for the backward pass"
    paper = "https://arxiv.org/abs/2405.17991"
    config = VeLoraOptions
    own_options = frozenset({"groups"})
    # What is kept depends on the other rows of a batch, and on its padding.
    capabilities = replace(LoraRelative.capabilities, position_wise=False)

    def sizes(self, model: nn.Module, config: VeLoraOptions, names: list[str]) -> dict[str, Any]:
        import peft

        return {"velora_config": peft.tuners.lora.VeloraConfig(config.groups)}
