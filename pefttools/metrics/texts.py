"""Metrics of texts: predictions have one as ``answer``; references are texts."""

from __future__ import annotations

from typing import Any

from pefttools.metrics.additive import MeanMetric
from pefttools.metrics.metric import Measure


class ExactMatch(MeanMetric):
    """Share of answers that equal their reference apart from white space at the ends."""

    name, measure = "exact_match", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return float(prediction.answer.strip() == reference.strip())
