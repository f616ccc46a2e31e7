"""The base as it is: what every method must beat where no head has to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.methods import Capabilities, MethodConfig, Target

from .own import OwnMethod

if TYPE_CHECKING:
    from torch import nn


class UntunedConfig(MethodConfig):
    """Options of the untuned base: none."""


class Untuned(OwnMethod[UntunedConfig]):
    """Trains nothing."""

    name = "untuned"
    summary = "the base as it is, for comparison"
    config = UntunedConfig
    capabilities = Capabilities(tasks=frozenset({"causal-lm"}), mergeable=True, trains=False, mixed_batch=True)
    learning_rate = 0.0

    def wrap(self, model: nn.Module, config: UntunedConfig, target: Target) -> nn.Module:
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model
