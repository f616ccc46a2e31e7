"""Metrics of class numbers by scikit-learn, as modules of the evaluate library."""

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

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return {"accuracy": float(metrics.accuracy_score(references, predictions, **options))}


class BalancedAccuracy(_ClassMetric):
    """Recall, averaged over the classes that occur in the references."""

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return {"balanced_accuracy": float(metrics.balanced_accuracy_score(references, predictions, **options))}


class Precision(_ClassMetric):
    """Precision, averaged over the classes."""

    def _compute(
        self, predictions: Any, references: Any, average: str = "macro", zero_division: float = 0, **options: Any
    ) -> dict[str, float]:
        score = metrics.precision_score(
            references, predictions, average=average, zero_division=zero_division, **options
        )
        return {"precision": float(score)}


class Recall(_ClassMetric):
    """Recall, averaged over the classes."""

    def _compute(
        self, predictions: Any, references: Any, average: str = "macro", zero_division: float = 0, **options: Any
    ) -> dict[str, float]:
        score = metrics.recall_score(references, predictions, average=average, zero_division=zero_division, **options)
        return {"recall": float(score)}


class F1(_ClassMetric):
    """Harmonic mean of precision and recall, averaged over the classes."""

    def _compute(
        self, predictions: Any, references: Any, average: str = "macro", zero_division: float = 0, **options: Any
    ) -> dict[str, float]:
        score = metrics.f1_score(references, predictions, average=average, zero_division=zero_division, **options)
        return {"f1": float(score)}


class MatthewsCorrelation(_ClassMetric):
    """Matthews' correlation coefficient: 0 for guessing, whatever the shares of the classes."""

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return {"matthews_correlation": float(metrics.matthews_corrcoef(references, predictions, **options))}
