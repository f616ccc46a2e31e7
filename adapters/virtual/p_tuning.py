"""P-tuning: trained embeddings before the input, produced by a small network during training.

Liu et al.: GPT Understands, Too, https://arxiv.org/abs/2103.10385

    network(e_1 ... e_n), text ──► model          only the network's output is stored
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.methods import MethodConfig, Target

from ..prompts import PromptMethod
from ..virtual_tokens import sizes

if TYPE_CHECKING:
    from torch import nn


class PTuningOptions(MethodConfig):
    """Options of P-tuning."""

    length: int = Field(20, ge=1, description="number of virtual tokens")
    hidden: int = Field(128, ge=1, description="size of the network's hidden layers")


class PTuning(PromptMethod[PTuningOptions]):
    """Embeddings from a network."""

    name = "p_tuning"
    summary = "embeddings before the input, made by a small network"
    paper = "https://arxiv.org/abs/2103.10385"
    config = PTuningOptions
    learning_rate = 5e-3

    def peft_config(self, model: nn.Module, config: PTuningOptions, target: Target) -> Any:
        import peft

        return peft.PromptEncoderConfig(
            num_virtual_tokens=config.length,
            encoder_hidden_size=config.hidden,
            **sizes(model),
            task_type=target.peft_task_type or None,
            modules_to_save=list(target.head_modules) or None,
        )
