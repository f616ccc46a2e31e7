"""Exact match of generated text, as a module of the evaluate library."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate


class ExactMatch(evaluate.Metric):  # type: ignore[misc]
    """Share of predictions that equal their reference but for white space at the ends."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: texts",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        matches = [
            prediction.strip() == reference.strip()
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"exact_match": sum(matches) / len(matches)}
