"""Prompt tuning, by PEFT: trained embeddings before the input.

Lester, Al-Rfou, Constant: The Power of Scale for Parameter-Efficient Prompt Tuning, https://arxiv.org/abs/2104.08691
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pefttools.methods import MethodConfig, Target

from .prompts import PromptMethod
from .virtual_tokens import sizes

if TYPE_CHECKING:
    from torch import nn


class PromptConfig(MethodConfig):
    """Options of prompt tuning."""

    length: int = Field(20, ge=1, description="number of virtual tokens")
    start: Literal["vocabulary", "random"] = Field(
        "vocabulary", description="initial embeddings: of tokens drawn from the vocabulary, or random"
    )


class PromptTuning(PromptMethod[PromptConfig]):
    """Extra input embeddings."""

    name = "prompt"
    summary = "trained embeddings before the input"
    paper = "https://arxiv.org/abs/2104.08691"
    config = PromptConfig
    learning_rate = 3e-2

    def peft_config(self, model: nn.Module, config: PromptConfig, target: Target) -> Any:
        import peft

        start = peft.PromptTuningInit.SAMPLE_VOCAB if config.start == "vocabulary" else peft.PromptTuningInit.RANDOM
        return peft.PromptTuningConfig(
            num_virtual_tokens=config.length,
            prompt_tuning_init=start,
            **sizes(model),
            task_type=target.peft_task_type or None,
            modules_to_save=list(target.head_modules) or None,
        )
