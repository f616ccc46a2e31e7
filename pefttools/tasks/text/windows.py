"""A long text in windows that overlap, and characters as tokens."""

from __future__ import annotations

from collections.abc import Sequence


def windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Where the windows of a text begin, and the token after each; together they cover every token.

    Args:
        tokens: of the text.
        room: tokens of a window.
        stride: tokens that a window shares with the one before it; fewer than `room`.

    Example:
        >>> windows(10, 5, 2)
        [(0, 5), (3, 8), (6, 10)]
    """
    if not 0 <= stride < room:
        raise ValueError(f"windows of {room} tokens can't share {stride}")
    found = [(0, min(room, tokens))]
    while found[-1][1] < tokens:
        start = found[-1][0] + room - stride
        found.append((start, min(start + room, tokens)))
    return found


def covering(starts: Sequence[int], ends: Sequence[int], first: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of those that stand for some characters of a text; None if no token does.

    Args:
        starts: first character of each token.
        ends: the character after each token.
        first: first of the characters.
        end: the character after them.
    """
    inside = [place for place, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < end and b > first and a < b]
    return (inside[0], inside[-1]) if inside else None


def characters(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters of a text without white space at their ends, which some tokenizers count as part of a token."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, max(start, start + len(part.strip()))
