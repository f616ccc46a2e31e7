"""Losses, and what is derived from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pefttools.metrics.additive import AdditiveMetric, MeanMetric
from pefttools.metrics.metric import Measure

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

#: loss of the smallest probability that is distinguished from 0
_LEAST = 1e-30
#: largest exponent of a perplexity that is finite
_MOST = 700.0


class LogLoss(MeanMetric):
    """Negative logarithm of the reference's probability; predictions have ``probabilities``, one per class."""

    name, measure = "loss", Measure.error("nats")

    def number(self, prediction: Any, reference: Any) -> float:
        return -math.log(max(prediction.probabilities[reference], _LEAST))


class BinaryLoss(MeanMetric):
    """Negative logarithm of the probability of what each label is, given or not; the mean over the labels.

    Predictions have ``probabilities``, one per label; references are sets of numbers.
    """

    name, measure = "loss", Measure.error("nats")

    def number(self, prediction: Any, reference: Any) -> float:
        given = (p if label in reference else 1 - p for label, p in enumerate(prediction.probabilities))
        return -math.fsum(math.log(max(p, _LEAST)) for p in given) / len(prediction.probabilities)


class TokenLoss(AdditiveMetric):
    """Mean loss of the tokens whose label is known; predictions have ``loss``, the sum, and ``tokens``, the number."""

    name, measure = "loss", Measure.error("nats")

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        return prediction.loss, float(prediction.tokens)

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        return total[..., 0] / np.maximum(total[..., 1], 1)


class Perplexity(TokenLoss):
    """Exponential of the mean loss."""

    name, measure = "perplexity", Measure.error()

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        return np.exp(np.minimum(super().value(total), _MOST))


class TokenAccuracy(AdditiveMetric):
    """Share of tokens predicted correctly after a true beginning; predictions have ``right`` and ``tokens``."""

    name, measure = "token_accuracy", Measure.share()

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        return float(prediction.right), float(prediction.tokens)

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        return total[..., 0] / np.maximum(total[..., 1], 1)
