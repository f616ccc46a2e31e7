"""Options of causal language modelling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pefttools.tasks.language.generating_task import GeneratingConfig
from pefttools.tasks.task import TextTaskConfig


class CausalLMConfig(GeneratingConfig, TextTaskConfig):
    """Options of causal language modelling; docs/chats.md shows what each does to a text."""

    max_length: int = Field(
        512,
        ge=8,
        description="maximum length of prompt and completion together, in tokens; a longer chat loses its oldest turns",
    )
    template: Literal["auto", "chat", "none"] = Field(
        "auto",
        description="chat: the tokenizer's chat template; none: plain text, see `plain`; auto: chat if there is one",
    )
    plain: Literal["lines", "joined"] = Field(
        "lines",
        description="format of texts without a chat template. lines: system message, prompt and completion each on a "
        "line, chats as `User: ...` and `Assistant: ...`; joined: prompt and completion with nothing between them",
    )
    system: str | None = Field(None, description="default system message")
    train_on: Literal["last", "all"] = Field(
        "last", description="which answers of a chat are learned: the last one, or all"
    )
    packing: bool = Field(True, description="train on concatenated texts without padding, if the model supports it")
