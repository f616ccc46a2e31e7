"""Where the right candidates of a query rank when all are ordered by how near they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pefttools.metrics.metric import Numbers

    Places = NDArray[np.int64]
    Floats = NDArray[np.float32] | NDArray[np.float64]

#: number of scores in memory at a time: some 16 MB, however many queries and candidates there are
_AT_A_TIME = 1 << 21
#: digits of a similarity that are compared: equal vectors have equal scores, wherever in a product they are computed
_DIGITS = 12
#: beyond any score
_FAR = 1e300


class Ranked(Protocol):
    """What metrics need of one query's order of the candidates."""

    @property
    def relevant(self) -> int:
        """Number of right candidates; 0 if the query can't be measured."""

    def found(self, k: int) -> float:
        """Number of right candidates among the first `k`."""

    def hit(self, k: int) -> float:
        """1 if one of the first `k` is right, else 0."""

    def reciprocal(self, k: int | None) -> float:
        """One divided by the place of the first right one; 0 if it is beyond `k`. With None, however far down."""

    def gain(self, k: int) -> float:
        """Sum over the right ones among the first `k` of ``1 / log2(1 + place)``."""


@dataclass(frozen=True)
class Ranking:
    """One query's order of the candidates.

    Attributes:
        places: of the right ones, from 1, as far down as the order was examined.
        first: place of the first right one; 0 if there is none.
        relevant: number of right ones.
        candidates: number of all.
    """

    places: tuple[int, ...]
    first: int
    relevant: int
    candidates: int

    def found(self, k: int) -> float:
        return float(sum(place <= k for place in self.places))

    def hit(self, k: int) -> float:
        return float(0 < self.first <= k)

    def reciprocal(self, k: int | None) -> float:
        return 1 / self.first if self.first and (k is None or self.first <= k) else 0.0

    def gain(self, k: int) -> float:
        return math.fsum(1 / math.log2(1 + place) for place in self.places if place <= k)


@dataclass(frozen=True)
class ByChance:
    """What a random order of the candidates gives on average, exactly.

    Attributes:
        relevant: number of right ones.
        candidates: number of all.
    """

    relevant: int
    candidates: int

    def found(self, k: int) -> float:
        return self.relevant * min(k, self.candidates) / self.candidates

    def hit(self, k: int) -> float:
        return _by_chance(self.relevant, self.candidates, k)[0]

    def reciprocal(self, k: int | None) -> float:
        return _by_chance(self.relevant, self.candidates, k)[1]

    def gain(self, k: int) -> float:
        return ideal_gain(min(k, self.candidates)) * self.relevant / self.candidates


@functools.lru_cache(maxsize=4096)  # many queries have the same number of right candidates
def _by_chance(relevant: int, candidates: int, k: int | None) -> tuple[float, float]:
    """Chance that one of the first `k` is right, and the mean of one divided by the place of the first that is."""
    none_yet, wrong = 1.0, candidates - relevant
    hits, reciprocals = [], []
    for before in range(min(candidates if k is None else k, wrong + 1)):
        left = candidates - before
        hits.append(none_yet * relevant / left)
        reciprocals.append(hits[-1] / (before + 1))
        none_yet *= (wrong - before) / left
    return math.fsum(hits), math.fsum(reciprocals)


@functools.lru_cache(maxsize=4096)
def ideal_gain(count: int) -> float:
    """The gain if the first places are all right."""
    return math.fsum(1 / math.log2(1 + place) for place in range(1, count + 1))


@dataclass(frozen=True)
class Placed:
    """What `rank` finds for one query.

    Attributes:
        ranking: where the right candidates rank.
        nearest: number of the first candidate of all; -1 if there is none.
    """

    ranking: Ranking
    nearest: int


def rank(
    queries: Floats, candidates: Floats, relevant: Sequence[Places], left_out: Sequence[Places], depth: int
) -> list[Placed]:
    """Order candidates by their dot product with each query, in blocks of bounded memory.

    Among equal scores the wrong ones come first, so that no metric favours a model that distinguishes nothing. Scores
    are equal if they agree to twelve decimal places. NaN is worst.

    Args:
        queries: ``[queries, size]``.
        candidates: ``[candidates, size]``.
        relevant: per query, the numbers of the right candidates.
        left_out: per query, numbers of candidates that don't count, right or not.
        depth: number of places that are examined.
    """
    block = max(1, _AT_A_TIME // max(len(candidates), 1))
    found: list[Placed] = []
    for start in range(0, len(queries), block):
        end = start + block
        found += _block(queries[start:end], candidates, relevant[start:end], left_out[start:end], depth)
    return found


def _block(
    queries: Floats, candidates: Floats, relevant: Sequence[Places], left_out: Sequence[Places], depth: int
) -> Iterator[Placed]:
    import numpy as np

    right = np.zeros((len(queries), len(candidates)), dtype=bool)
    scores = np.round(queries.astype(np.float64) @ candidates.astype(np.float64).T, _DIGITS)
    for row, (own, without) in enumerate(zip(relevant, left_out, strict=True)):
        right[row, own] = True
        right[row, without] = False
        scores[row, without] = -np.inf
    # A model that gives NaN must not be the best of all.
    scores = np.where(np.isnan(scores), np.where(right, -_FAR, _FAR), scores)
    of_wrong, of_right = np.where(right, -np.inf, scores), np.where(right, scores, -np.inf)
    best_wrong, best_right = of_wrong.argmax(1), of_right.argmax(1)
    before = (of_wrong >= of_right.max(1, keepdims=True)).sum(1)
    top_wrong, top_right = _largest(of_wrong, depth), _largest(of_right, depth)
    for row in range(len(queries)):
        count = int(right[row].sum())
        # A right one comes after the right ones before it and after all wrong ones that are as near.
        wrong_before = top_wrong.shape[1] - np.searchsorted(top_wrong[row], top_right[row][::-1], side="left")
        places = 1 + np.arange(len(wrong_before)) + wrong_before
        own_places = tuple(int(place) for place in places[:count] if place <= depth)
        first = int(before[row]) + 1 if count else 0
        whole = len(candidates) - len(left_out[row])
        nearest = -1 if not whole else int(best_right[row] if first == 1 else best_wrong[row])
        yield Placed(Ranking(own_places, first, count, whole), nearest)


def _largest(scores: Numbers, count: int) -> Numbers:
    """The largest numbers of each row, the very largest last."""
    import numpy as np

    if count < scores.shape[1]:
        scores = np.partition(scores, -count, axis=1)[:, -count:]
    found: Numbers = np.sort(scores, axis=1)
    return found
