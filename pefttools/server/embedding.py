"""Embeddings, as OpenAI's clients request them."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import ContextLengthError, DataError
from pefttools.predicting import encoded
from pefttools.server.answers import Answered, Chosen, UnsuitedError
from pefttools.server.schemas import Input, Model, OpenAIRequest
from pefttools.server.service import Service
from pefttools.server.waiting import Gone
from pefttools.tasks import Task
from pefttools.tasks.task import Example

Token = Annotated[int, Field(strict=True, ge=0)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=100_000)]


class EmbeddingRequest(OpenAIRequest):
    """Texts to embed, all with one adapter; or their token ids from the base's tokenizer."""

    idle = frozenset({"user"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"dimensions": ()}

    model: Model
    input: Input | Annotated[list[Input], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the numbers as little-endian float32, in base64"
    )

    def inputs(self) -> list[str | list[int]]:
        """One entry per embedding."""
        given: Any = self.input
        one = isinstance(given, str) or isinstance(given[0], int)
        return [given] if one else list(given)


async def embed(
    service: Service, chosen: Chosen, inputs: Sequence[str | Sequence[int]], gone: Gone | None = None
) -> list[Answered]:
    """The embedding of each text, which is never truncated, or of each list of tokens.

    Raises:
        UnsuitedError: an adapter that does not embed.
        DataError: an empty text, or a token that the base does not have.
        ContextLengthError: more tokens than the adapter takes. Otherwise as `Service.predict`.
    """
    task = chosen.task()
    if task is None or not task.embeds:
        raise UnsuitedError(f"the model {chosen.name or service.settings.name!r} does not produce embeddings")
    service.lookup.check_embedding(chosen)
    texts = [one for one in inputs if isinstance(one, str)]
    if texts:
        role = task.main_role()
        table = Table("the request", [{role: one} for one in texts], {role: "input"}, range(1, len(texts) + 1))
        rows: Any = await service.background.tokens(
            lambda tokenizer: encoded(table, task, tokenizer, (), "stop"), sum(map(len, texts))
        )
    else:
        rows = [_of_tokens(one, index, len(service.pool.tokenizer)) for index, one in enumerate(inputs)]
    for index, example in enumerate(rows):
        _check_length(example, index, task)
    return await service.answered(chosen, [Answered(one) for one in rows], gone)


def _of_tokens(tokens: Sequence[Any], index: int, known: int) -> Example:
    if unknown := [one for one in tokens if one >= known]:
        raise DataError(f"input {index}: there is no token {unknown[0]}; the base has {known:,} tokens")
    return {"input_ids": list(tokens), "attention_mask": [1] * len(tokens), "length": len(tokens)}


def _check_length(example: Example, index: int, task: Task[Any]) -> None:
    limit = task.longest_input
    if limit is not None and example["length"] > limit:
        raise ContextLengthError(
            f"input {index} has {example['length']:,} tokens, but this model takes at most {limit:,}",
            hint="Split it and embed the parts.",
        )


def written(numbers: array[float], encoding: Literal["float", "base64"]) -> list[float] | str:
    """An embedding in the requested encoding."""
    if encoding == "float":
        return numbers.tolist()
    if sys.byteorder == "big":
        numbers = array("f", numbers)
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
