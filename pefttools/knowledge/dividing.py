"""Long passages, divided into parts that an encoder reads whole."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

#: where a part had best end: at the end of a line or a sentence, else at least between two words
_SENTENCES = re.compile(r"\n+\s*|(?<=[.!?…。！？])[\"')\]]*\s+")
_WORDS = re.compile(r"\s+")


def divided(text: str, tokenizer: Any, tokens: int) -> list[str]:
    """A text in parts of at most so many tokens each, which end where a sentence does if one ends in their second half.

    Args:
        text: the text.
        tokenizer: the encoder's, one that knows where its tokens come from.
        tokens: at most, those that the tokenizer adds included; 8 or more.

    Returns:
        The parts, without white space at their ends: nothing but white space is left out.
    """
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    room = tokens - tokenizer.num_special_tokens_to_add()
    if len(spans) <= room:
        return [text]
    starts = [start for start, _ in spans]
    sentences, words = ([found.end() for found in rule.finditer(text)] for rule in (_SENTENCES, _WORDS))
    parts, first = [], 0
    while len(spans) - first > room:
        # Characters that are ended before the token for which there is no room.
        at, last = starts[first], starts[first + room]
        middle = starts[first + room // 2]
        end = _last(sentences, middle, last) or _last(words, at, last) or max(last, at + 1)
        parts.append(text[at:end].strip())
        first = bisect_right(starts, end - 1)
    parts.append(text[starts[first] :].strip())
    return [part for part in parts if part]


def _last(ends: Sequence[int], after: int, until: int) -> int | None:
    """The last of some sorted places that is after one place, and not after another."""
    index = bisect_right(ends, until) - 1
    return ends[index] if index >= 0 and ends[index] > after else None
