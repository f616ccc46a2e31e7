"""Probabilities at or above which a label is given, chosen on validation.

References:
    Lipton, Z., Elkan, C. and Naryanaswamy, B. (2014). Optimal thresholding of classifiers to maximize F1 measure. ECML.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: a label with fewer validation rows says too little about its own threshold: it uses that of all labels together
FEWEST_ROWS = 5


def best_thresholds(
    probabilities: Sequence[Sequence[float]], references: Sequence[Collection[int]], *, shared: bool
) -> list[float]:
    """One threshold per label.

    Args:
        probabilities: of each label, per row.
        references: the labels of each row.
        shared: one for all, the best by micro F1; else each label's best by its own F1.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    truth = np.zeros(scores.shape, dtype=bool)
    for row, labels in enumerate(references):
        truth[row, list(labels)] = True
    common = _best(scores.ravel(), truth.ravel())
    if shared:
        return [common] * scores.shape[1]
    enough = truth.sum(0) >= FEWEST_ROWS
    return [_best(scores[:, label], truth[:, label]) if enough[label] else common for label in range(scores.shape[1])]


def _best(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The threshold with the highest F1, in the middle between two scores; 0.5 if nothing is true."""
    if not truth.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], np.cumsum(truth[order])
    f1 = 2 * right / (np.arange(1, len(ranked) + 1) + truth.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # rows with equal scores are given the label together
    at = int(f1.argmax())
    below = ranked[at + 1] if at + 1 < len(ranked) else 0.0
    return float((ranked[at] + below) / 2)
