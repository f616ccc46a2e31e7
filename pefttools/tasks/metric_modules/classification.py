"""Accuracy, precision, recall and F1, as modules of the evaluate library."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
from sklearn import metrics


class _ClassMetric(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: class numbers",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )


class Accuracy(_ClassMetric):
    """Share of right predictions."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(metrics.accuracy_score(references, predictions))}


class Precision(_ClassMetric):
    """Precision, averaged over the classes."""

    def _compute(self, predictions: Any, references: Any, average: str = "macro") -> dict[str, float]:
        score = metrics.precision_score(references, predictions, average=average, zero_division=0)
        return {"precision": float(score)}


class Recall(_ClassMetric):
    """Recall, averaged over the classes."""

    def _compute(self, predictions: Any, references: Any, average: str = "macro") -> dict[str, float]:
        return {"recall": float(metrics.recall_score(references, predictions, average=average, zero_division=0))}


class F1(_ClassMetric):
    """Harmonic mean of precision and recall, averaged over the classes."""

    def _compute(self, predictions: Any, references: Any, average: str = "macro") -> dict[str, float]:
        return {"f1": float(metrics.f1_score(references, predictions, average=average, zero_division=0))}
