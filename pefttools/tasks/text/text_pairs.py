"""Two texts that a model reads together."""

from __future__ import annotations

from typing import Any


def between(tokenizer: Any) -> str:
    """What to write after the first text of a pair: a line break if the tokenizer puts no token there."""
    marks = tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)
    return "" if marks else "\n"
