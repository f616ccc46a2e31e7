"""Weights of labels by how many rows they have."""

from __future__ import annotations

from collections.abc import Mapping

#: of how many rows a label has enough: their effective number can't exceed 1 / (1 - this)
_BETA = 0.999


def balanced(counts: Mapping[str, int]) -> dict[str, float]:
    """Every label has the same weight in all: rows / (labels * rows of the label).

    Args:
        counts: number of rows of each label, at least one.
    """
    rows = sum(counts.values())
    return {label: rows / (len(counts) * count) for label, count in counts.items()}


def by_effective_number(counts: Mapping[str, int]) -> dict[str, float]:
    """The inverse of the effective number of a label's rows, scaled to a mean of 1 over the labels.

    Further rows of a label add less and less, so that a rare label weighs less than with `balanced`.

    Args:
        counts: number of rows of each label, at least one.

    References:
        Cui, Y., Jia, M., Lin, T.-Y., Song, Y. and Belongie, S. (2019). Class-balanced loss based on effective number of
        samples. CVPR. https://arxiv.org/abs/1901.05555
    """
    weights = {label: (1 - _BETA) / (1 - _BETA**count) for label, count in counts.items()}
    mean = sum(weights.values()) / len(weights)
    return {label: weight / mean for label, weight in weights.items()}
