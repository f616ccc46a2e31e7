"""How many labels a baseline needs for a score."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def labels_for(score: float, curve: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """The number of labels at which a curve reaches a score.

    Between the points the score is linear in the logarithm of the number, as learning curves nearly are. If a curve
    goes down in between, the first place counts.

    Args:
        score: wanted.
        curve: numbers of labels, ascending, and the scores with them, where more is better.

    Returns:
        The number, and ``""``; or the curve's smallest or largest number, and ``<`` or ``>``: it is beyond that.
    """
    if score < curve[0][1]:
        return curve[0][0], "<"
    for (few, low), (many, high) in itertools.pairwise(curve):
        if low <= score <= high:
            share = 0.0 if high == low else (score - low) / (high - low)
            return math.exp(math.log(few) + share * (math.log(many) - math.log(few))), ""
    return (curve[0][0], "") if score == curve[0][1] else (curve[-1][0], ">")
