"""What tasks that generate text have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def end_tokens(model: Any) -> list[int]:
    """Tokens at which a transformers model's own generation settings end a text."""
    settings = getattr(model, "generation_config", None)  # an encoder has none
    ends = None if settings is None else settings.eos_token_id
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else list(ends)


def answer_text(tokens: Sequence[int], tokenizer: Any, ends: Collection[int]) -> str:
    """Text of generated tokens, up to the first that ends the answer."""
    stop = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    text: str = tokenizer.decode(list(tokens[:stop]), skip_special_tokens=True)
    return text
