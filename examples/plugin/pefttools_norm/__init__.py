"""Norm tuning: only the normalization layers are trained (https://arxiv.org/abs/2312.11420)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.adapters.own import OwnMethod, train_heads
from pefttools.errors import TargetError
from pefttools.methods import Capabilities, MethodConfig, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta


class NormConfig(MethodConfig):
    """Options of norm tuning."""

    biases: bool = Field(True, description="train the biases of the layers too")


class NormTuning(OwnMethod[NormConfig]):
    """Trains weights (and biases) of every LayerNorm and RMSNorm."""

    name = "norm"
    summary = "the normalization layers"
    paper = "https://arxiv.org/abs/2312.11420"
    config = NormConfig
    capabilities = Capabilities(trains="base", effect="weights", variants=frozenset({"float32"}), deltas=True)
    learning_rate = 3e-3

    def wrap(self, model: nn.Module, config: NormConfig, target: Target) -> nn.Module:
        norms = [module for module in model.modules() if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))]
        if not norms:
            raise TargetError("norm: the model has no normalization layers")
        for module in norms:
            for name, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(name == "weight" or config.biases)
        train_heads(model, target)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: NormConfig) -> dict[str, SiteDelta]:
        from pefttools.deltas import Replace, SiteDelta

        layers: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            layer, _, parameter = name.rpartition(".")
            layers.setdefault(layer, {})[parameter] = value
        return {layer: SiteDelta(Replace(parameters)) for layer, parameters in layers.items()}
