"""Patterns: a text is written into a sentence that lacks one word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pefttools.errors import ConfigError

TEXT, PAIR, MASK = "{text}", "{pair}", "{mask}"
_PLACES = re.compile(r"\{(text|pair|mask)\}")
_NAMES = re.compile(r"\{(\w*)\}")


def check_pattern(pattern: str) -> None:
    """Refuse a pattern without a text or without one place for the word.

    Raises:
        ValueError: says what is wrong.
    """
    found = _NAMES.findall(pattern)
    if "text" not in found or found.count("mask") != 1:
        raise ValueError(f"the pattern must contain {TEXT}, and {MASK} once, where the word is missing: {pattern!r}")
    if unknown := [name for name in found if name not in ("text", "pair", "mask")]:
        raise ValueError(f"the pattern has places for {TEXT}, {PAIR} and {MASK}, not for {{{unknown[0]}}}: {pattern!r}")


class Pattern:
    """A pattern, written for one tokenizer.

    Args:
        pattern: with ``{text}``, ``{mask}`` and, for pairs, ``{pair}``.
        tokenizer: the base's; if it has no mask token, the word follows at the end.

    Raises:
        ConfigError: text follows the word, but the model can't read on from there; or there is another mask.
    """

    def __init__(self, pattern: str, tokenizer: Any) -> None:
        masked = tokenizer.mask_token is not None
        if not masked and not pattern.endswith(MASK):
            raise ConfigError(
                f"task.pattern: this base continues texts, so that {MASK} must be at the end: {pattern!r}",
                hint=f"Write for example: {TEXT} This is about {MASK}",
            )
        self._tokenizer = tokenizer
        #: whether the model fills in a mask, which stands for one token
        self.masked = masked
        self._mask = str(tokenizer.mask_token) if masked else ""
        if self._mask and self._mask in pattern:
            raise ConfigError(f"task.pattern contains the mask token, {self._mask}: {MASK} stands for it")
        before = pattern[: pattern.index(MASK)]
        # A continuing model's word brings its own space along.
        self._pattern = pattern if masked else before.rstrip(" ")
        #: what stands directly before the word: a piece of the pattern, or a word that stands for a text
        self._before = _PLACES.split(before.rstrip(" "))[-1] or "x"
        self._space = " " if before.endswith(" ") else ""

    def word(self, word: str) -> list[int]:
        """The tokens of a word where the pattern lacks one.

        Raises:
            ConfigError: it has no token of its own there.
        """
        first, whole = (
            self._tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (self._before, f"{self._before}{self._space}{word}")
        )
        tokens = list(whole[len(first) :])
        special = tokens and (tokens[0] == self._tokenizer.unk_token_id or tokens[0] in self._tokenizer.all_special_ids)
        if whole[: len(first)] != first or not tokens or special or not self._tokenizer.decode(tokens[:1]).strip():
            raise ConfigError(
                f"task.words: the base's tokenizer has no token for {word!r} after {self._before + self._space!r}",
                hint="Choose another word, or another pattern.",
            )
        return tokens

    def pieces(self, tokens: Sequence[int]) -> str:
        """Tokens as they are written, for messages."""
        return ", ".join(repr(self._tokenizer.decode([one])) for one in tokens)

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


def word_tokens(words: Mapping[str, str], labels: Sequence[str], pattern: Pattern) -> list[int]:
    """The token of each label's word where a pattern lacks one.

    Where a model continues texts it is the word's first token, after which the others could follow.

    Args:
        words: label -> its word; a label that is missing is its own word.
        labels: label names.
        pattern: the pattern.

    Raises:
        ConfigError: a word of several tokens for a mask, or of none; a token for two labels; a label that there is none
            of.
    """
    if unknown := sorted(words.keys() - set(labels)):
        raise ConfigError(
            f"task.words: {unknown[0]!r} is not a label", hint=f"The labels are: {', '.join(labels[:30])}."
        )
    found: dict[int, str] = {}
    for label in labels:
        word = words.get(label, label)
        tokens = pattern.word(word)
        if len(tokens) > 1 and pattern.masked:
            raise ConfigError(
                f"task.words: a mask stands for one token, but the word for the label {label!r}, {word!r}, is "
                f"{len(tokens)}: {pattern.pieces(tokens)}",
                hint="Choose a more common word for it.",
            )
        if tokens[0] in found:
            raise ConfigError(
                f"task.words: the words for the labels {found[tokens[0]]!r} and {label!r} begin with the same token, "
                f"{pattern.pieces(tokens[:1])}",
                hint="Give one of them another word in task.words.",
            )
        found[tokens[0]] = label
    return list(found)
