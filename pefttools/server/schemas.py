"""HTTP requests. Those that exist in OpenAI's API follow it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pefttools.server.settings import Settings
from pefttools.server.uploads import FileInput
from pefttools.store.names import PATTERN

Text = Annotated[str, Field(min_length=1, max_length=200_000)]
Stop = Annotated[str, Field(max_length=256)]
Model = Annotated[str, Field(min_length=1, max_length=300, description="an adapter, NAME, NAME@TAG or NAME@VERSION")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


#: may be empty: that is an error of this text, not of the request
Input = Annotated[str, Field(max_length=200_000)]


#: a tag, or a version's number
Version = Annotated[str, Field(pattern=f"^{PATTERN}$")]
#: not just a number
Tag = Annotated[str, Field(pattern=r"^([A-Za-z][A-Za-z0-9._-]*|[0-9]+[A-Za-z._-][A-Za-z0-9._-]*)$", max_length=128)]


class PairInput(_Request):
    """Two texts that are classified together."""

    text: Input
    pair: Input


class ClassifyRequest(_Request):
    """Texts to classify, all with one adapter."""

    model: Model
    input: (
        Input
        | Annotated[list[Input], Field(min_length=1)]
        | Annotated[list[PairInput], Field(min_length=1)]
        | PairInput
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="what to do with a text that can't be classified: stop, or skip it (it gets an error)"
    )

    @field_validator("input", mode="before")
    @classmethod
    def _alike(cls, given: Any) -> Any:
        if isinstance(given, list) and {str, dict} <= set(map(type, given)):
            raise ValueError("texts and pairs of texts can't be mixed in one request")
        return given


#: a cell of a row: a text, or a list of words or choices
Cell = Input | Annotated[list[Annotated[str, Field(max_length=20_000)]], Field(max_length=10_000)]
#: cells by column role, as named by the adapter's task
RowInput = Annotated[dict[Annotated[str, Field(max_length=64)], Cell | FileInput], Field(min_length=1, max_length=16)]


class PredictRequest(_Request):
    """Rows for an adapter of any task with a head, or of one that generates a text from a whole text or audio file."""

    model: Model
    input: Input | RowInput | Annotated[list[Input | RowInput], Field(min_length=1)]
    scores: bool = Field(
        False, description="include the probability of every label or choice, of each word's tag, or further answers"
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="what to do with a row that can't be used: stop, or skip it (it gets an error)"
    )


class OpenAIRequest(_Request):
    """What OpenAI's clients send: options without effect are accepted, those with an effect are honoured or refused.

    Attributes:
        idle: fields that change no answer, whatever their value.
        neutral: fields that are not supported -> the values with which they change nothing, besides null.
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
                raise ValueError(
                    f"there is no option {str(name)[:60]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                )
        return kept

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Includes what is accepted without effect, so that the document forbids nothing that is accepted."""
        reference = handler(schema)
        found = handler.resolve_ref_schema(reference)
        required = found.get("required", ())
        own = {
            name: one if name in required else {"anyOf": [one, {"type": "null"}]}
            for name, one in found["properties"].items()
        }
        idle = {name: {"description": "changes nothing"} for name in sorted(cls.idle)}
        neutral = {
            name: {"enum": [*values, None], "description": "not supported, except these values"}
            for name, values in sorted(cls.neutral.items())
        }
        found["properties"] = own | idle | neutral
        return reference


class TextPart(_Request):
    """A part of a message."""

    type: Literal["text"]
    text: Input


Content = Input | Annotated[list[TextPart], Field(max_length=1000)]
#: fields of answers, which clients send back as received
_OF_ANSWERS: dict[str, tuple[Any, ...]] = {
    "refusal": ("",), "annotations": ([],), "audio": (), "tool_calls": ([],), "function_call": (),
}  # fmt: skip


class _Message(OpenAIRequest):
    neutral = _OF_ANSWERS

    content: Content
    name: str | None = None

    def text(self) -> str:
        """Its content, with its parts joined as they are."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Message(_Message):
    """One message of a chat, to the model."""

    role: Literal["system", "developer", "user"]


class AssistantMessage(_Message):
    """An answer of the model, sent back; it may be empty."""

    role: Literal["assistant"]
    content: Content = ""


class StreamOptions(OpenAIRequest):
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
    "parallel_tool_calls": (True, False),  # about tools, of which there are none
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class _Generate(OpenAIRequest):
    model: Model
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, description="sample from this many of the most likely tokens; 0 or -1 for all")
    n: Literal[1] = 1
    seed: int | None = None
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
    """A chat to answer."""

    idle = _IDLE
    neutral = _NEUTRAL | _NEUTRAL_IN_CHATS

    messages: list[Annotated[Message | AssistantMessage, Field(discriminator="role")]] = Field(
        min_length=1, max_length=1000
    )
    max_completion_tokens: int | None = Field(None, ge=1)


class CompletionRequest(_Generate):
    """Texts to continue."""

    idle = _IDLE
    neutral = _NEUTRAL | {"best_of": (1,), "echo": (False,), "logprobs": (), "suffix": ("",)}

    prompt: Text | Annotated[list[Text], Field(min_length=1)]


#: request -> field that holds several inputs
_LIMITED = (
    ("ClassifyRequest", "input"), ("ChatRequest", None), ("CompletionRequest", "prompt"), ("EmbeddingRequest", "input"),
)  # fmt: skip


def limit_schemas(schemas: dict[str, Any], settings: Settings) -> None:
    """Write a server's limits into the JSON schemas of requests."""
    for name, inputs in _LIMITED:
        properties = schemas[name]["properties"]
        for field in {"max_tokens", "max_completion_tokens"} & properties.keys():
            for one in _alternatives(properties[field], "integer"):
                one["maximum"] = settings.max_tokens
        if inputs is not None:
            for one in _alternatives(properties[inputs], "array"):
                one["maxItems"] = settings.max_inputs


def _alternatives(schema: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Those of a schema and its alternatives that have a given type."""
    found = [schema] if schema.get("type") == kind else []
    return found + [one for part in schema.get("anyOf", ()) for one in _alternatives(part, kind)]


class AdapterRequest(_Request):
    """Which version of an adapter to make resident, and a tag to point at it."""

    version: Version | None = Field(None, description="number or tag; by default the newest")
    tag: Tag | None = Field(None, description="point this tag at the version")
