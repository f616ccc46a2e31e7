"""HTTP responses, as the OpenAPI document describes them. Those that exist in OpenAI's API follow it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: None
    code: str


class Error(_Answer):
    """What is sent instead of an answer."""

    error: ErrorDetail


class Health(_Answer):
    """The server is up."""

    status: Literal["ok"]
    base: str


class Ready(_Answer):
    """Whether requests are answered, and if not, why."""

    status: str


class Model(_Answer):
    """The base, or an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Answer):
    """All that the caller may use."""

    object: Literal["list"]
    data: list[Model]


class RowError(_Answer):
    """Why a text could not be classified."""

    message: str


class Refused(_Answer):
    """A text that could not be classified."""

    index: int
    error: RowError


class Source(_Answer):
    """A passage that was looked up for a row.

    Attributes:
        id: its name in the index.
        score: how near it is to the row's text: the cosine of their vectors.
    """

    id: str
    score: float


class _Label(_Answer):
    index: int
    label: str
    score: float
    scores: dict[str, float]
    sources: list[Source] | None = None


class Label(_Label):
    """A text that was classified."""


class LabelOfPart(_Label):
    """A text that was too long: its beginning was classified."""

    cut_from: int


class Classification(_Answer):
    """One entry per text, in their order."""

    object: Literal["list"]
    model: str
    data: list[Label | LabelOfPart | Refused]


class Piece(_Answer):
    """A piece of a row's context."""

    prediction: str
    start: int
    end: int
    score: float


class RowPrediction(_Answer):
    """What the adapter predicts for one row; scores only if they were requested and its task has them.

    Attributes:
        choice: number of the prediction among the row's choices, from 0.
        start: its first character in the row's context; missing if it is not a part of it.
        end: the character after it.
        candidates: further pieces of the context, best first.
        no_answer: score for there being no answer.
        sources: the passages that were looked up, for an adapter that was trained with them.
    """

    index: int
    prediction: str | float | list[str] | list[float]
    score: float | None = None
    scores: dict[str, float] | list[float] | None = None
    choice: int | None = None
    start: int | None = None
    end: int | None = None
    candidates: list[Piece] | None = None
    no_answer: float | None = None
    cut_from: float | None = None
    sources: list[Source] | None = None


class Predictions(_Answer):
    """One entry per row, in their order."""

    object: Literal["list"]
    model: str
    data: list[RowPrediction | Refused]


class Usage(_Answer):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(_Answer):
    """The answer to a chat."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Answer):
    """One answer.

    Attributes:
        sources: the passages that were looked up, for an adapter that was trained with them.
    """

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]
    sources: list[Source] | None = None


class ChatCompletion(_Answer):
    """A chat's answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(_Answer):
    """A text's continuation; sources as in `ChatChoice`."""

    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"]
    sources: list[Source] | None = None


class Completion(_Answer):
    """Continuations of texts, in their order."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(_Answer):
    """One text's embedding: numbers, or base64 of them as little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(_Answer):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(_Answer):
    """One entry per text, in their order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class HeardUsage(_Answer):
    """How many seconds of audio were read."""

    type: Literal["duration"]
    seconds: int


class Transcript(_Answer):
    """What is said in an audio file."""

    text: str
    usage: HeardUsage


class Loaded(_Answer):
    """The version that is ready, and the tag that now points at it."""

    model: str
    tag: str | None


class Unloaded(_Answer):
    """The versions whose weights were unloaded."""

    unloaded: list[str]


_ERRORS = {
    400: "an invalid request",
    401: "no valid key",
    403: "a key that may not do this",
    404: "no such model, version or tag",
    408: "the body did not arrive in time",
    409: "an adapter of another base",
    413: "a request that is too large",
    422: "an adapter that is damaged, or with non-finite outputs",
    429: "too many texts of this caller are waiting; try again later",
    500: "an error in the server",
    503: "no room, a store that can't be read, or the server is stopping",
    504: "it took too long",
}


def documented(answer: type[BaseModel], *, stream: bool = False) -> dict[int | str, dict[str, Any]]:
    """Responses that a route may give.

    Args:
        answer: the response on success.
        stream: also events, if requested.
    """
    well: dict[str, Any] = {"model": answer}
    if stream:
        data = {"type": "string", "description": "JSON; at the end [DONE]"}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        well["content"] = {"text/event-stream": {"schema": event}}
    return {200: well} | errors(*_ERRORS)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors that a route may respond with."""
    return {status: {"model": Error, "description": _ERRORS[status]} for status in statuses}
