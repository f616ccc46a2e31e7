"""Metrics of sets of labels: predictions have a set of numbers as ``answer``; references are such sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pefttools.metrics.additive import MeanMetric
from pefttools.metrics.classes import F1, Averaged, Precision, Recall
from pefttools.metrics.metric import Measure

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers


class SubsetAccuracy(MeanMetric):
    """Share of rows whose labels are all right."""

    name, measure = "subset_accuracy", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return float(prediction.answer == reference)


class HammingLoss(MeanMetric):
    """Share of labels that are wrong, of all labels that each row could have; predictions have ``probabilities``."""

    name, measure = "hamming_loss", Measure("%", False, (0.0, 1.0))

    def number(self, prediction: Any, reference: Any) -> float:
        return len(prediction.answer ^ reference) / len(prediction.probabilities)


class _OfSets(Averaged):
    """Precision, recall or F1 of sets; a macro average is over all labels, including those that no row has."""

    def contribution(self, prediction: Any, reference: Any) -> dict[int, float]:
        return {
            3 * len(prediction.probabilities) - 1: 0.0,  # so that each label has its sums
            **{3 * label: 1.0 for label in prediction.answer & reference},
            **{3 * label + 1: 1.0 for label in prediction.answer - reference},
            **{3 * label + 2: 1.0 for label in reference - prediction.answer},
        }

    def _counted(self, seen: Numbers) -> Numbers:
        import numpy as np

        return np.ones_like(seen)


class SetF1(_OfSets, F1):
    """Harmonic mean of the labels' precision and recall."""


class SetPrecision(_OfSets, Precision):
    """Share of predicted labels that are right."""


class SetRecall(_OfSets, Recall):
    """Share of true labels that are predicted."""
