"""Precision, recall and F1 of counts, of whatever is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

Kind = Literal["precision", "recall", "f1"]


def ratio(kind: Kind, right: Numbers, wrong: Numbers, missed: Numbers, zero_division: float = 0.0) -> Numbers:
    """The ratio of counts of any shape.

    Args:
        kind: precision, the share of what was found that is right; recall, the share of what is there that was found;
            f1, their harmonic mean.
        right: number of those found correctly.
        wrong: number of those found that are not there.
        missed: number of those that are there and were not found.
        zero_division: value of 0 / 0.
    """
    import numpy as np

    share, whole = {
        "precision": (right, right + wrong),
        "recall": (right, right + missed),
        "f1": (2 * right, 2 * right + wrong + missed),
    }[kind]
    found: Numbers = np.divide(share, whole, where=whole > 0, out=np.full_like(whole, zero_division))
    return found
