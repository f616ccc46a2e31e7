"""Requests, as they come over HTTP. Answers follow OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=200_000)]
Stop = Annotated[str, Field(max_length=256)]
Model = Annotated[str, Field(min_length=1, max_length=300, description="an adapter, NAME, NAME@TAG or NAME@VERSION")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


#: may be empty: then it is this text's error, not the request's
Input = Annotated[str, Field(max_length=200_000)]


class PairInput(_Request):
    """Two texts that are classified together."""

    text: Input
    pair: Input


class ClassifyRequest(_Request):
    """Texts to classify, all with one adapter."""

    model: Model
    input: Input | list[Input | PairInput] | PairInput
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="at a text that can't be classified; skip: the others are, and it gets an error"
    )


class Message(_Request):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    name: str | None = None


class _Generate(BaseModel):
    # OpenAI's clients send more than is understood here; what would change the answer is refused below.
    model_config = ConfigDict(extra="ignore")

    model: Model
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    n: Literal[1] = 1
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0

    def stops(self) -> list[str]:
        """Texts at which an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [one for one in given if one]


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(_Generate):
    """A chat that waits for its next answer."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream_options: StreamOptions | None = None
    tools: None = None
    logprobs: Literal[False] | None = None


class CompletionRequest(_Generate):
    """Texts to go on with."""

    prompt: Text | list[Text]
    echo: Literal[False] = False
    logprobs: None = None
    best_of: Literal[1] | None = None
    stream_options: StreamOptions | None = None


class AdapterRequest(_Request):
    """Which version of an adapter to make resident, and a tag to point at it."""

    version: str | None = Field(None, max_length=128, description="number or tag; none: the newest")
    tag: str | None = Field(None, max_length=128, description="point this tag at the version")
