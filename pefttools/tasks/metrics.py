"""Metrics through the evaluate library: ours from local files, any other by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pefttools.errors import ConfigError


def classification_metrics(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 as macro and weighted averages."""
    from pefttools.tasks.metric_modules.classification import F1, Accuracy, Precision, Recall

    found = _compute(Accuracy, predictions, references)
    for module in (Precision, Recall, F1):
        for average in ("macro", "weighted"):
            (score,) = _compute(module, predictions, references, average=average).items()
            found[f"{score[0]}_{average}"] = score[1]
    return found


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Exact match."""
    from pefttools.tasks.metric_modules.text import ExactMatch

    return _compute(ExactMatch, predictions, references)


def named_metric(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Any metric of the evaluate library, by hub name or by the path of its script.

    Raises:
        ConfigError: it can't be loaded, or does not take these predictions.
    """
    import evaluate

    try:
        module = evaluate.load(name, keep_in_memory=True)
    except Exception as error:
        raise ConfigError(
            f"the metric {name!r} can't be loaded: {type(error).__name__}: {str(error).splitlines()[0]}",
            hint="Give the path of a metric script, or a name that the hub has.",
        ) from error
    try:
        result = module.compute(predictions=list(predictions), references=list(references))
    except Exception as error:
        raise ConfigError(f"the metric {name!r} does not fit this task's predictions: {error}") from error
    return {key: float(value) for key, value in (result or {}).items() if isinstance(value, int | float)}


def _compute(module: Any, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
    metric = module(keep_in_memory=True)
    result: dict[str, float] = metric.compute(predictions=list(predictions), references=list(references), **options)
    return result
