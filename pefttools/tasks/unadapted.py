"""The task of a base without an adapter."""

from __future__ import annotations

from typing import Any

from pefttools.tasks.causal_lm import CausalLM
from pefttools.tasks.causal_lm_config import CausalLMConfig
from pefttools.tasks.seq2seq_lm import Seq2SeqLM, Seq2SeqLMConfig
from pefttools.tasks.speech_recognition import SpeechRecognition, SpeechRecognitionConfig
from pefttools.tasks.task import Task


def base_task(modality: str = "text", *, encoder_decoder: bool = False) -> Task[Any]:
    """Encodes rows for a base as it is: chats by its own template, or what its encoder reads or hears.

    Args:
        modality: what the base reads.
        encoder_decoder: whether an encoder reads it, and a decoder writes.
    """
    if modality == "audio" and encoder_decoder:
        return SpeechRecognition(SpeechRecognitionConfig())
    return Seq2SeqLM(Seq2SeqLMConfig()) if encoder_decoder else CausalLM(CausalLMConfig())
