"""Patterns: a text is written into a sentence that lacks one word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pefttools.errors import ConfigError

TEXT, PAIR, MASK = "{text}", "{pair}", "{mask}"
_PLACES = re.compile(r"\{(text|pair|mask)\}")


def check_pattern(pattern: str) -> None:
    """Refuse a pattern without a text or without one place for the word.

    Raises:
        ValueError: says what is wrong.
    """
    found = _PLACES.findall(pattern)
    if "text" not in found or found.count("mask") != 1:
        raise ValueError(f"the pattern must contain {TEXT}, and {MASK} once, where the word is missing: {pattern!r}")


class Pattern:
    """A pattern, written for one tokenizer.

    Args:
        pattern: with ``{text}``, ``{mask}`` and, for pairs, ``{pair}``.
        tokenizer: the base's; if it has no mask token, the word follows at the end.

    Raises:
        ConfigError: text follows the word, but the model can't read on from there.
    """

    def __init__(self, pattern: str, tokenizer: Any) -> None:
        masked = tokenizer.mask_token is not None
        if not masked and not pattern.rstrip().endswith(MASK):
            raise ConfigError(
                f"task.pattern: this base continues texts, so that {MASK} must be at the end: {pattern!r}",
                hint=f"Write for example: {TEXT} This is about {MASK}",
            )
        # A continuing model's word brings its own space along.
        self._pattern = pattern if masked else pattern.rstrip().removesuffix(MASK).rstrip()
        self._tokenizer = tokenizer
        self._mask = str(tokenizer.mask_token) if masked else ""

    def encode(self, row: Mapping[str, str], limit: int) -> tuple[list[int], int]:
        """A row's tokens, cut to a limit within its texts, the longer one first; and their number before that.

        Args:
            row: ``text`` and, if the pattern has a place for it, ``pair``.
            limit: maximum number of tokens.

        Raises:
            ConfigError: the pattern alone is longer, or a text contains the mask token.
        """
        texts = dict(row)
        if self._mask and any(self._mask in text for text in texts.values()):
            raise ConfigError(f"the text contains the mask token, {self._mask}", hint="Remove it, or drop the row.")
        ids = self._ids(texts)
        whole = len(ids)
        while len(ids) > limit:
            longest = max(texts, key=lambda role: len(texts[role]))
            if not texts[longest]:
                raise ConfigError(f"task.pattern alone has {len(ids)} tokens, and task.max_length is {limit}")
            texts[longest] = self._shortened(texts[longest], len(ids) - limit)
            ids = self._ids(texts)
        return ids, whole

    def _ids(self, texts: Mapping[str, str]) -> list[int]:
        written = _PLACES.sub(lambda found: self._mask if found[1] == "mask" else texts[found[1]], self._pattern)
        ids = list(self._tokenizer(written)["input_ids"])
        if not self._mask and ids[-1:] == [self._tokenizer.eos_token_id]:
            ids.pop()  # the word would follow the end of the text
        return ids

    def _shortened(self, text: str, tokens: int) -> str:
        """A text without its last tokens; at least one character shorter."""
        ends = [
            end
            for _, end in self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ]
        kept = ends[max(0, len(ends) - tokens) - 1] if len(ends) > tokens else 0
        return text[: min(kept, len(text) - 1)]


def word_tokens(words: Mapping[str, str], labels: Sequence[str], tokenizer: Any) -> list[int]:
    """The token of each label's word, as it stands after another word.

    Where a model continues texts it is the word's first token, after which the others could follow.

    Args:
        words: label -> its word; a label that is missing is its own word.
        labels: label names.
        tokenizer: the base's; if it has no mask token, the model continues texts.

    Raises:
        ConfigError: a word of several tokens for a mask; a token for two labels; a label that there is none of.
    """
    if unknown := sorted(words.keys() - set(labels)):
        raise ConfigError(
            f"task.words: {unknown[0]!r} is not a label", hint=f"The labels are: {', '.join(labels[:30])}."
        )
    before = tokenizer("x", add_special_tokens=False)["input_ids"]
    found: dict[int, str] = {}
    for label in labels:
        word = words.get(label, label)
        tokens = tokenizer(f"x {word}", add_special_tokens=False)["input_ids"][len(before) :]
        if len(tokens) > 1 and tokenizer.mask_token is not None:
            pieces = ", ".join(map(repr, map(tokenizer.decode, tokens)))
            raise ConfigError(
                f"task.words: a mask stands for one token, but the word for the label {label!r}, {word!r}, is "
                f"{len(tokens)}: {pieces}",
                hint="Choose a more common word for it.",
            )
        if tokens[0] in found:
            raise ConfigError(
                f"task.words: the words for the labels {found[tokens[0]]!r} and {label!r} begin with the same token, "
                f"{tokenizer.decode(tokens[:1])!r}",
                hint="Give one of them another word in task.words.",
            )
        found[tokens[0]] = label
    return list(found)
