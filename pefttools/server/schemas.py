"""Requests, as they come over HTTP. Answers follow OpenAI's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class _OpenAI(_Request):
    """What OpenAI's clients send: options without effect are taken, and those with an effect are honoured or refused.

    Attributes:
        idle: fields that change no answer, whatever they say.
        neutral: fields that are not supported -> the values by which they change nothing, beside null.
    """

    idle: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept = {}
        for name, value in given.items():
            if name in cls.model_fields:
                if value is not None:  # null stands for the default
                    kept[name] = value
            elif name in cls.idle:
                continue
            elif name in cls.neutral:
                if value is not None and not any(
                    value == one and type(value) is type(one) for one in cls.neutral[name]
                ):
                    raise ValueError(f"{name} is not supported here; leave it out")
            else:
                near = difflib.get_close_matches(str(name), [*cls.model_fields, *cls.idle, *cls.neutral], n=1)
                raise ValueError(f"there is no option {str(name)[:60]!r}" + (f"; is it {near[0]!r}?" if near else ""))
        return kept


class TextPart(_Request):
    """A part of a message."""

    type: Literal["text"]
    text: Input


class Message(_OpenAI):
    """One message of a chat."""

    #: what answers have, which clients send back as they came
    neutral = {"refusal": ("",), "annotations": ([],), "audio": (), "tool_calls": ([],), "function_call": ()}

    role: Literal["system", "developer", "user", "assistant"]
    content: Input | Annotated[list[TextPart], Field(max_length=1000)] = ""
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.role != "assistant" and "content" not in self.model_fields_set:
            raise ValueError(f"a message of the role {self.role!r} needs content")
        return self

    def text(self) -> str:
        """Its content, whose parts are joined as they stand."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_OpenAI):
    """Options of a stream."""

    idle = frozenset({"include_obfuscation"})

    include_usage: bool = False


_IDLE = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "ignore_eos": (False,),
    "length_penalty": (1, 1.0),
    "logit_bias": ({},),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "repetition_penalty": (1, 1.0),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
}
_NEUTRAL_IN_CHATS: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),  # of the tools, which there are none of
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class _Generate(_OpenAI):
    model: Model
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, description="draw among so many tokens; 0 or -1: among all")
    n: Literal[1] = 1
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0

    def stops(self) -> list[str]:
        """Texts at which an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [one for one in given if one]


class ChatRequest(_Generate):
    """A chat that waits for its next answer."""

    idle = _IDLE
    neutral = _NEUTRAL | _NEUTRAL_IN_CHATS

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1)


class CompletionRequest(_Generate):
    """Texts to go on with."""

    idle = _IDLE
    neutral = _NEUTRAL | {"best_of": (1,), "echo": (False,), "logprobs": (), "suffix": ("",)}

    prompt: Text | list[Text]


class AdapterRequest(_Request):
    """Which version of an adapter to make resident, and a tag to point at it."""

    version: str | None = Field(None, max_length=128, description="number or tag; none: the newest")
    tag: str | None = Field(None, max_length=128, description="point this tag at the version")
