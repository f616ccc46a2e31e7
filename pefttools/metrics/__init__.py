"""How good a model's predictions are: metrics, and how much each would vary with other rows."""

from pefttools.metrics.additive import AdditiveMetric
from pefttools.metrics.metric import Measure, Metric

__all__ = ["AdditiveMetric", "Measure", "Metric"]
