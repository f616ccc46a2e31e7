"""Head only: the base stays frozen, and only the task head is trained (linear probing)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.methods import Capabilities, MethodConfig, Target

from .own import OwnMethod, train_heads

if TYPE_CHECKING:
    from torch import nn


class HeadConfig(MethodConfig):
    """Options of head-only training: none."""


class HeadOnly(OwnMethod[HeadConfig]):
    """Trains the task head on the features of a frozen base."""

    name = "head"
    summary = "the task head alone, on a frozen base"
    config = HeadConfig
    capabilities = Capabilities(trains="head", effect="none", deltas=True)
    learning_rate = 1e-2

    def wrap(self, model: nn.Module, config: HeadConfig, target: Target) -> nn.Module:
        train_heads(model, target)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model
