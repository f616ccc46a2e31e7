"""Full fine-tuning: every weight of the base is trained. The reference point of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.bases import BaseVariant
from pefttools.errors import ConfigError
from pefttools.methods import Capabilities, MethodConfig, Target, TaskFacts

from .own import OwnMethod

if TYPE_CHECKING:
    from torch import nn


#: parameters of a base up to which the default learning rate is not lowered
_SMALL = 23e6


class FullConfig(MethodConfig):
    """Options of full fine-tuning."""

    master_weights: bool = Field(
        True,
        description="keep the trained weights in float32; false: train the 16-bit weights of a bfloat16 base directly, "
        "which takes half the memory and loses small updates to rounding",
    )


class FullFineTuning(OwnMethod[FullConfig]):
    """Trains all parameters, by default as float32 master weights (mixed precision is left to autocast)."""

    name = "full"
    summary = "every weight of the base; the reference point"
    config = FullConfig
    capabilities = Capabilities(trains="base", effect="weights")
    learning_rate = 1e-4

    def default_learning_rate(self, parameters: int) -> float:
        """The larger the base, the smaller: 1e-4 up to 23 million parameters, 1e-5 at 2.3 billion.

        It falls with the square root of the size, between what is common for MiniLM, BERT (5e-5) and models of 3 to 7
        billion.
        """
        return float(f"{self.learning_rate * min(1.0, (_SMALL / max(parameters, 1)) ** 0.5):.2g}")

    def check(self, config: FullConfig, variant: BaseVariant, task: TaskFacts) -> None:
        super().check(config, variant, task)
        if config.master_weights and variant.name != "float32":
            raise ConfigError(
                f"full fine-tuning keeps float32 weights, which the variant {variant.name!r} does not have",
                hint="Use the variant float32, or full.master_weights=false.",
            )

    def idle_options(self, config: FullConfig, variant: BaseVariant) -> list[str]:
        if variant.name == "float32" and not config.master_weights:
            return ["full.master_weights has no effect: the base's weights are already float32"]
        return []

    def wrap(self, model: nn.Module, config: FullConfig, target: Target) -> nn.Module:
        constant = _constants(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in constant)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model


def _constants(model: nn.Module) -> set[str]:
    """Parameters that transformers' class never trains, such as Whisper's sinusoidal position embeddings."""
    import torch
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return set()
    with torch.device("meta"):
        fresh = type(model)(model.config)
    return {name for name, parameter in fresh.named_parameters() if not parameter.requires_grad}
