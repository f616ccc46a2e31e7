"""The unchanged base: what every method must beat. A task's head keeps its random initial weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.methods import Capabilities, MethodConfig, Target

from .own import OwnMethod, train_heads

if TYPE_CHECKING:
    from torch import nn


class UntunedConfig(MethodConfig):
    """Options of the untuned base: none."""


class Untuned(OwnMethod[UntunedConfig]):
    """Trains nothing."""

    name = "untuned"
    summary = "the base as it is, for comparison"
    config = UntunedConfig
    capabilities = Capabilities(trains="nothing", effect="none", deltas=True)
    learning_rate = 0.0

    def wrap(self, model: nn.Module, config: UntunedConfig, target: Target) -> nn.Module:
        train_heads(model, target)  # so that they are saved; no step is ever taken
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model
