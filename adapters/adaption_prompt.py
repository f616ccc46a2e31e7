"""LLaMA-Adapter: prompts that each layer attends to, through a gate that is closed at the start.

Zhang et al.: LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention,
https://arxiv.org/abs/2303.16199

    attention(x) + g softmax(q k(p)^T) v(p)          the prompts p and the gate g of each layer are trained
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import transformers_models

from .peft_bridge import PeftMethod

if TYPE_CHECKING:
    from torch import nn


class AdaptionPromptOptions(MethodConfig):
    """Options of LLaMA-Adapter."""

    length: int = Field(10, ge=1, description="number of prompts in each layer")
    layers: int | None = Field(None, ge=1, description="how many of the last layers get prompts; default: all")


class AdaptionPrompt(PeftMethod[AdaptionPromptOptions]):
    """Prompts behind a gate."""

    name = "adaption_prompt"
    summary = "prompts in each layer's attention, with a gate"
    paper = "https://arxiv.org/abs/2303.16199"
    config = AdaptionPromptOptions
    capabilities = Capabilities(effect="modules", modalities=frozenset({"text"}))
    learning_rate = 1e-2

    def peft_config(self, model: nn.Module, config: AdaptionPromptOptions, target: Target) -> Any:
        import peft

        layers = transformers_models(model)[0].config.num_hidden_layers
        return peft.AdaptionPromptConfig(
            adapter_len=config.length, adapter_layers=config.layers or layers, task_type=target.peft_task_type or None
        )

    def check_model(self, config: AdaptionPromptOptions, model: nn.Module) -> None:
        from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

        kind = transformers_models(model)[0].config.model_type
        if kind not in TRANSFORMERS_MODEL_CONFIG:
            raise ConfigError(
                f"the method 'adaption_prompt' can't be used on a {kind}: PEFT does not support its attention",
                hint=f"It can be used on: {', '.join(sorted(TRANSFORMERS_MODEL_CONFIG))}.",
            )
