"""The task of a base without an adapter."""

from __future__ import annotations

from typing import Any

from pefttools.bases import Base
from pefttools.bases.positions import written_limit
from pefttools.tasks.audio.speech_recognition import SpeechRecognition, SpeechRecognitionConfig
from pefttools.tasks.language.causal_lm import CausalLM
from pefttools.tasks.language.causal_lm_config import CausalLMConfig
from pefttools.tasks.language.seq2seq_lm import Seq2SeqLM, Seq2SeqLMConfig
from pefttools.tasks.task import Task

#: maximum number of tokens that a transcript begins with: its start, language, task and that it has no times
_OPENING = 4


def base_task(modality: str = "text", *, encoder_decoder: bool = False, base: Base | None = None) -> Task[Any]:
    """Encodes rows for a base as it is: chats by its own template, or what its encoder reads or hears.

    Args:
        modality: what the base reads.
        encoder_decoder: whether an encoder reads it, and a decoder writes.
        base: its files, for one that hears.
    """
    if modality == "audio" and encoder_decoder and base is not None:
        return _speech(base)
    return Seq2SeqLM(Seq2SeqLMConfig()) if encoder_decoder else CausalLM(CausalLMConfig())


def _speech(base: Base) -> Task[Any]:
    """Speech recognition with sounds and texts as long as a base takes them, if that is less than usual."""
    options = SpeechRecognitionConfig()
    task = SpeechRecognition(options)
    heard, written = task.input_limit(base), written_limit(base)
    seconds = options.max_seconds if heard is None else min(options.max_seconds, heard / task.size_unit.parts)
    tokens = options.max_new_tokens if written is None else min(options.max_new_tokens, written - _OPENING)
    return SpeechRecognition(SpeechRecognitionConfig(max_seconds=seconds, max_new_tokens=tokens))
