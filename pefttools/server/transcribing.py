"""Transcripts of audio, as OpenAI's clients request them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Literal

from fastapi import UploadFile
from pydantic import Field

from pefttools.data import Table
from pefttools.errors import ContextLengthError, DataError
from pefttools.predicting import encoded
from pefttools.server.answers import Chosen, UnsuitedError
from pefttools.server.generating import Generation, sampling
from pefttools.server.schemas import Model, OpenAIRequest
from pefttools.server.service import Service
from pefttools.tasks.size_unit import SECONDS


class TranscriptionRequest(OpenAIRequest):
    """An audio file to transcribe."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "chunking_strategy": (), "include[]": (), "known_speaker_names[]": (), "known_speaker_references[]": (),
        "prompt": ("",), "timestamp_granularities[]": (),
    }  # fmt: skip

    file: UploadFile = Field(description="wav, flac, ogg or mp3")
    model: Model
    language: str | None = Field(None, description="only the one that the model writes anyway")
    response_format: Literal["json", "text"] = "json"
    temperature: float = Field(0.0, ge=0, le=1, description="0 to always take the most likely token")
    stream: bool = False


async def transcription(service: Service, chosen: Chosen, request: TranscriptionRequest) -> Generation:
    """A transcript that is yet to be generated.

    Raises:
        UnsuitedError: a model that does not read audio, or writes another language.
        DataError: the file is not audio.
        ContextLengthError: it is longer than the model takes; nothing is truncated.
    """
    task = chosen.task() or service.pool.base_task
    if task.modality != "audio" or not task.encoder_decoder:
        raise UnsuitedError(f"the model {chosen.name or service.settings.name!r} can't transcribe")
    service.suited.check_writing(chosen)
    _check_language(request.language, task, service)
    content = await request.file.read()
    role = task.main_role()
    table = Table("the request", [{role: content}], {role: "file"}, [1])
    (example,) = await service.background.files(lambda: encoded(table, task, None, (), "stop"))
    assert not isinstance(example, DataError)
    limit = task.options.max_seconds
    if example["length"] > round(limit * task.size_unit.parts):
        raise ContextLengthError(
            f"the audio is {task.size_unit.shown(example['length']):g} s long, but this model takes {limit:g} s",
            hint="Send it in parts.",
        )
    tokens = min(task.options.max_new_tokens, service.settings.max_tokens)
    drawn = sampling(request.temperature, 1.0, 0, None)
    return Generation((), tokens, service.ends(chosen, chat=False), sampling=drawn, example=example)


def _check_language(language: str | None, task: Any, service: Service) -> None:
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    if language is None:
        return
    several = getattr(service.pool.served.model.generation_config, "is_multilingual", True)
    own = task.options.language or (None if several else "english")
    code, wanted = (TO_LANGUAGE_CODE.get((one or "").lower(), (one or "").lower()) for one in (own, language))
    if code != wanted:
        writes = "any language" if own is None else own
        raise UnsuitedError(f"the language can't be chosen: this model writes {writes}", hint="Leave language out.")


def usage(generation: Generation) -> dict[str, Any]:
    """How much audio was read, as OpenAI bills it: in whole seconds."""
    assert generation.example is not None
    return {"type": "duration", "seconds": math.ceil(generation.example["length"] / SECONDS.parts)}


async def events(
    pieces: AsyncIterator[tuple[int, str | None]], generation: Generation
) -> AsyncIterator[dict[str, Any]]:
    """A transcript as it is generated."""
    first = True
    async for _, piece in pieces:
        if piece is None:
            yield {"type": "transcript.text.done", "text": generation.text.strip(), "usage": usage(generation)}
        elif delta := piece.lstrip() if first else piece:
            first = False
            yield {"type": "transcript.text.delta", "delta": delta, "logprobs": []}
