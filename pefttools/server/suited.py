"""What a model can be asked to do."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.errors import DataError
from pefttools.pool import AdapterPool
from pefttools.server.answers import Chosen, UnsuitedError


class Suited:
    """Refuses what a model can't do.

    Args:
        pool: of the server.
    """

    def __init__(self, pool: AdapterPool) -> None:
        self._pool = pool

    def check_texts(self) -> None:
        """Refuse texts if the base does not read them.

        Raises:
            UnsuitedError: it reads something else.
        """
        if self._pool.served.modality != "text":
            raise UnsuitedError(
                f"the base {self._pool.served.base.id!r} reads {self._pool.served.modality}, not texts",
                hint="Use /v1/predict, or /v1/audio/transcriptions for transcripts.",
            )

    def check_writing(self, chosen: Chosen, *, chat: bool = False) -> None:
        """Refuse models that don't write texts, or don't answer chats.

        Raises:
            UnsuitedError: an encoder, or a classifier; for chats, an encoder-decoder model.
        """
        task = chosen.task()
        if chat and self._pool.served.encoder_decoder:
            raise UnsuitedError(
                f"the base {self._pool.served.base.id!r} reads a text and writes another: it does not answer chats",
                hint="Use /v1/completions or /v1/predict.",
            )
        why = self._pool.served.why_not_generated(chosen.name, language=task is None or task.generates)
        if why is not None:
            raise UnsuitedError(why)
        if task is not None and getattr(task.options, "beams", 1) > 1:
            raise UnsuitedError(
                f"the adapter {chosen.name!r} was evaluated with task.beams={task.options.beams}; this server "
                "generates without beam search",
                hint="Use pefttools.predict instead.",
            )

    def check_prompt(self, chosen: Chosen, prompt: Sequence[int], max_tokens: int) -> None:
        """Refuse what can't be continued.

        Raises:
            DataError: an empty prompt.
            ContextLengthError: a prompt that is too long.
        """
        if not prompt:
            raise DataError("the prompt is empty")
        virtual = 0 if chosen.name is None else self._pool.virtual_length(chosen.name)
        encoder_decoder = self._pool.served.encoder_decoder
        self._pool.served.check_length(len(prompt), 0 if encoder_decoder else max_tokens, virtual)
        if encoder_decoder:
            self._pool.served.check_length(0, max_tokens, 0)
