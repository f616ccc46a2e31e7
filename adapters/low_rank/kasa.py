"""KaSA: LoRA in the form of a singular value decomposition, in place of the weight's smallest components.

Wang et al.: KaSA: Knowledge-Aware Singular-Value Adaptation of Large Language Models,
https://arxiv.org/abs/2412.06071

    y = (W - U_r S_r V_r^T) x + (alpha / r) B diag(e) A x     U_r S_r V_r^T: the r smallest components of W

Penalties on the loss keep ``e`` small, and the columns of ``B`` and the rows of ``A`` orthonormal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.bases import BaseVariant
from pefttools.errors import ConfigError
from pefttools.methods import Target, TaskFacts

from ..peft_weights import shapes
from .lora_relative import LoraRelative, LoraRelativeOptions

if TYPE_CHECKING:
    from torch import Tensor, nn


class KasaOptions(LoraRelativeOptions):
    """Options of KaSA."""

    beta: float = Field(1e-4, ge=0, description="weight of the penalty on the squares of the singular values e")
    gamma: float = Field(1e-3, ge=0, description="weight of the penalty that keeps A and B orthonormal")


class Kasa(LoraRelative[KasaOptions]):
    """Low-rank updates with singular values, which replace the weight's smallest components."""

    name = "kasa"
    summary = "low-rank updates with singular values, in place of the weight's smallest components"
    paper = "https://arxiv.org/abs/2412.06071"
    config = KasaOptions
    own_options = frozenset({"beta", "gamma"})
    # What is removed is computed again from the weight on loading, so a rounded weight would be another method.
    quantized = frozenset()

    def check(self, config: KasaOptions, variant: BaseVariant, task: TaskFacts) -> None:
        super().check(config, variant, task)
        if variant.name != "float32":
            raise ConfigError(
                f"the method 'kasa' can't be used with the variant {variant.name!r}: it rewrites the base's weights",
                hint="Use the variant float32, or lora.",
            )

    def sizes(self, model: nn.Module, config: KasaOptions, names: list[str]) -> dict[str, Any]:
        import peft

        for name, (inputs, outputs) in zip(names, shapes(model, names), strict=True):
            if config.r >= min(inputs, outputs):
                raise ConfigError(
                    f"kasa.r is {config.r}, but {name} has only {min(inputs, outputs)} components to replace",
                    hint="Choose a smaller r.",
                )
        return {"kasa_config": peft.tuners.lora.KasaConfig(config.beta, config.gamma)}

    def wrap(self, model: nn.Module, config: KasaOptions, target: Target) -> nn.Module:
        return self._without_delay(super().wrap(model, config, target))

    def load(self, model: nn.Module, folder: Path, config: KasaOptions, target: Target) -> nn.Module:
        return self._without_delay(super().load(model, folder, config, target))

    def _without_delay(self, model: nn.Module) -> nn.Module:
        """On the meta device, PEFT would remove the components in the first forward pass, which would be planned."""
        for layer in model.modules():
            getattr(layer, "_lora_kasa_truncation_deferred", set()).discard(self.adapter)
        return model

    def penalty(self, model: nn.Module, config: KasaOptions) -> Tensor:
        found: Tensor = model.base_model._get_kasa_loss(self.adapter)  # type: ignore[operator, union-attr]
        return found

    def rank(self, options: Mapping[str, Any], inputs: int, outputs: int) -> int:
        return 2 * int(options["r"])  # what is added, and what is removed
