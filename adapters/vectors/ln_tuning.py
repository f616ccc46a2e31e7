"""LN tuning: only the normalization layers are trained.

Zhao et al.: Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning, https://arxiv.org/abs/2312.11420

    y = g * (x - mean(x)) / std(x) + b          g and b are trained; of an RMS norm only g
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import TargetError
from pefttools.methods import Target
from pefttools.sites import match_modules

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


class LNTuningOptions(LayerOptions):
    """Options of LN tuning."""

    targets: list[str] = Field(default_factory=list, description="norms to train: names or globs; empty: all")


class LNTuning(PeftWeights[LNTuningOptions]):
    """Training of the norms."""

    name = "ln_tuning"
    summary = "the normalization layers"
    paper = "https://arxiv.org/abs/2312.11420"
    config = LNTuningOptions
    learning_rate = 5e-3
    peft_class = "LNTuningConfig"
    quantized = QUANTIZED
    conv1d = True

    def sites(self, model: nn.Module, config: LNTuningOptions, target: Target | None = None) -> list[str]:
        names = match_modules(model, config.targets, option="ln_tuning.targets", linear_only=False)
        norms = [name for name, module in model.named_modules() if "Norm" in type(module).__name__]
        chosen = [name for name in norms if not config.targets or name in names]
        chosen = [name for name in chosen if target is None or not target.in_head(name)]
        if not chosen:
            raise TargetError("ln_tuning: none of the chosen modules is a normalization layer")
        return chosen

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        from pefttools.deltas import AdapterDeltas, Replace, SiteDelta

        found: dict[str, dict[str, Tensor]] = {}
        for full, value in state.items():
            site, _, name = full.replace(".ln_tuning_layers.", ".").rpartition(".")
            found.setdefault(site, {})[name] = value
        return AdapterDeltas({site: SiteDelta(Replace(parameters)) for site, parameters in found.items()})
