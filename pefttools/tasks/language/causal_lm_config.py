"""Options of causal language modelling."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pefttools.tasks.language.generating_task import GeneratingConfig
from pefttools.tasks.task import TextTaskConfig


class ShownExample(BaseModel):
    """A prompt and its answer, shown before other prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1, description="what is asked")
    completion: str = Field(min_length=1, description="the right answer")


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
    shots: int = Field(
        0, ge=0, description="number of training rows that are shown, with their answers, as turns before every prompt"
    )
    examples: list[ShownExample] = Field(
        default_factory=list, description="prompts and answers that are shown instead of `shots` training rows"
    )
    packing: bool = Field(True, description="train on concatenated texts without padding, if the model supports it")

    @model_validator(mode="after")
    def _shown_in_one_way(self) -> Self:
        if self.shots and self.examples:
            raise ValueError("shots and examples are mutually exclusive")
        if (self.shots or self.examples) and self.train_on == "all":
            raise ValueError("train_on=all would learn the answers of the examples before every prompt")
        if (self.shots or self.examples) and self.plain == "joined":
            raise ValueError("plain=joined has no form for shots and examples")
        return self
