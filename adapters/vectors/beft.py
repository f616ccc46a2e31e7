"""BEFT: only a bias on the attention's values is trained.

BEFT: Bias-Efficient Fine-Tuning of Language Models in Low-Data Regimes, https://arxiv.org/abs/2509.15974

    v = W_v x + b_v + d          d is trained, and starts at zero
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.methods import Target
from pefttools.sites import block_parts, match_modules, modules_at

from ..peft_weights import TORCHAO, LayerOptions, PeftWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


class BEFTOptions(LayerOptions):
    """Options of BEFT."""

    targets: list[str] = Field(
        default_factory=list,
        description="layers that get a bias; empty: value projections, or the fused projections that contain them",
    )


class BEFT(PeftWeights[BEFTOptions]):
    """Biases on values."""

    name = "beft"
    summary = "a bias on the attention's values"
    paper = "https://arxiv.org/abs/2509.15974"
    config = BEFTOptions
    learning_rate = 1e-2
    peft_class = "BeftConfig"
    quantized = TORCHAO

    def sites(self, model: nn.Module, config: BEFTOptions, target: Target | None = None) -> list[str]:
        if config.targets:
            return match_modules(model, config.targets, option="beft.targets")
        parts = block_parts(model)
        values = [part[-1] for part in (parts.keys_values, parts.cross_keys_values) if part]
        return [name for part in values for name in modules_at(model, part)]

    def merge(self, model: nn.Module) -> nn.Module:
        try:
            return super().merge(model)
        except ValueError as error:
            raise ConfigError(
                "the adapter can't be merged: it adds biases to layers of the base that have none",
                hint="Use the artifact as it is.",
            ) from error

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        from pefttools.deltas import AdapterDeltas, Bias, SiteDelta

        found = {name.removesuffix(".beft_bias"): bias.flatten() for name, bias in state.items()}
        return AdapterDeltas({site: SiteDelta(Bias(bias)) for site, bias in found.items()})
