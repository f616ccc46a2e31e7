"""Metrics of preferences: predictions have the losses of a chosen and of a rejected answer, and their tokens."""

from __future__ import annotations

from typing import Any

from pefttools.metrics.additive import MeanMetric
from pefttools.metrics.metric import Measure


class Preferred(MeanMetric):
    """Share of rows whose chosen answer is the more likely one, as a whole; a tie is half a row."""

    name, measure = "preferred", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return _higher(-prediction.loss, -prediction.rejected_loss)


class PreferredPerToken(MeanMetric):
    """The same by the mean log-probability of a token, so that shorter answers have no advantage."""

    name, measure = "preferred_per_token", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return _higher(
            -prediction.loss / max(prediction.tokens, 1), -prediction.rejected_loss / max(prediction.rejected_tokens, 1)
        )


class Margin(MeanMetric):
    """Log-probability of the chosen answer minus that of the rejected one; the mean over the rows."""

    name, measure = "margin", Measure("nats", True)

    def number(self, prediction: Any, reference: Any) -> float:
        return float(prediction.rejected_loss - prediction.loss)


def _higher(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)
