"""Responses in the form of OpenAI's completions, whole or streamed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.responses import StreamingResponse

from pefttools.errors import PeftToolsError
from pefttools.knowledge import Hit, cited
from pefttools.server.errors import error_response
from pefttools.server.generating import Generation


def beginning(kind: str, model: str) -> dict[str, Any]:
    """Fields that every response begins with."""
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def tokens_used(generations: list[Generation]) -> dict[str, int]:
    """Tokens read and written."""
    prompt = sum(len(one.prompt) for one in generations)
    completion = sum(len(one.tokens) for one in generations)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def chat_chunks(
    pieces: AsyncIterator[tuple[int, str | None]],
    generation: Generation,
    head: dict[str, Any],
    with_usage: bool,
    sources: Sequence[Hit] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """A chat's answer as it is generated; its sources come with its end."""

    def chunk(delta: dict[str, Any], reason: str | None = None, **last: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, **last}]}

    yield chunk({"role": "assistant", "content": ""})
    async for _, piece in pieces:
        yield chunk({}, generation.reason, **cited(sources)) if piece is None else chunk({"content": piece})
    if with_usage:
        yield {**head, "choices": [], "usage": tokens_used([generation])}


async def text_chunks(
    pieces: AsyncIterator[tuple[int, str | None]],
    generations: list[Generation],
    head: dict[str, Any],
    with_usage: bool,
    sources: Sequence[Sequence[Hit] | None],
) -> AsyncIterator[dict[str, Any]]:
    """Texts as they are generated, interleaved; the sources of each come with its end."""
    async for index, piece in pieces:
        reason, last = (generations[index].reason, cited(sources[index])) if piece is None else (None, {})
        choice = {"index": index, "text": piece or "", "logprobs": None, "finish_reason": reason, **last}
        yield {**head, "choices": [choice]}
    if with_usage:
        yield {**head, "choices": [], "usage": tokens_used(generations)}


def stream(chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Events for a client; an error that occurs late is the last of them."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        except PeftToolsError as error:
            # The status was sent long ago: the error is the last event.
            yield f"data: {json.dumps(error_response(error)[1])}\n\n"
            return
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
