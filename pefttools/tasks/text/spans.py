"""The best spans of scored tokens, and the margin from which on none of them is an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

#: first and last token -> score
Spans = dict[tuple[int, int], float]


def best_spans(starts: torch.Tensor, ends: torch.Tensor, longest: int, count: int) -> Spans:
    """The spans with the highest sums of two scores, the best first.

    Args:
        starts: score of each token as the first of a span, ``[tokens]``.
        ends: score of each token as the last.
        longest: maximum number of tokens of a span.
        count: maximum number of spans.
    """
    import torch

    tokens = len(starts)
    longest = min(longest, tokens)
    behind = torch.cat([ends, ends.new_full((longest - 1,), float("-inf"))])
    sums = starts[:, None] + behind.unfold(0, longest, 1)  # [tokens, lengths]
    best = sums.flatten().topk(min(count, int((sums > float("-inf")).sum())))
    places = [divmod(int(place), longest) for place in best.indices]
    return {(start, start + more): score for (start, more), score in zip(places, best.values.tolist(), strict=True)}


def merged(windows: Sequence[tuple[int, Spans]], count: int) -> Spans:
    """The best spans of several windows; one that is in two counts with its higher score.

    Args:
        windows: each one's first token, and its spans.
        count: maximum number of spans.
    """
    found: Spans = {}
    for first, spans in windows:
        for (start, end), score in spans.items():
            place = (first + start, first + end)
            found[place] = max(score, found.get(place, score))
    ranked = sorted(found, key=lambda place: (-found[place], place))
    return {place: found[place] for place in ranked[:count]}


def best_margin(margins: Sequence[float], answered: Sequence[float], silent: Sequence[float]) -> float:
    """The lead of "no answer" over the best answer above which it is best to give none, found as by SQuAD 2's script.

    Args:
        margins: score of "no answer" minus that of the best answer, per row.
        answered: score that the best answer of each row gets.
        silent: score that "no answer" gets there.
    """
    order = np.argsort(np.asarray(margins), kind="stable")
    ordered = np.asarray(margins, dtype=np.float64)[order]
    # The total score if the first rows are answered, and no others.
    more = (np.asarray(answered, dtype=np.float64) - np.asarray(silent, dtype=np.float64))[order]
    worth = np.concatenate([[0.0], np.cumsum(more)])
    worth[1:-1][ordered[:-1] == ordered[1:]] = -np.inf  # rows with equal margins go together
    number = len(worth) - 1 - int(worth[::-1].argmax())  # among equals the one that answers more
    if number == 0:
        return float(ordered[0]) - 1.0
    return float(ordered[-1]) + 1.0 if number == len(ordered) else float(ordered[number - 1] + ordered[number]) / 2
