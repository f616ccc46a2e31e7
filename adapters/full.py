"""Full fine-tuning: every weight of the base is trained. The yardstick of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.methods import Capabilities, MethodConfig, Target

from .own import OwnMethod

if TYPE_CHECKING:
    from torch import nn


class FullConfig(MethodConfig):
    """Options of full fine-tuning: none."""


class FullFineTuning(OwnMethod[FullConfig]):
    """Trains all parameters, as float32 master weights (mixed precision is the task of autocast)."""

    name = "full"
    summary = "every weight of the base; the yardstick"
    config = FullConfig
    capabilities = Capabilities(bases=frozenset({"float32"}), mergeable=True)
    learning_rate = 1e-4

    def wrap(self, model: nn.Module, config: FullConfig, target: Target) -> nn.Module:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model
