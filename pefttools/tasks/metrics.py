"""Metrics through the evaluate library: ours from local files, any other by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pefttools.errors import ConfigError, UnknownNameError

#: a metric by name, or by name with options
MetricChoice = str | dict[str, Any]


@dataclass(frozen=True)
class NamedMetric:
    """A metric that a recipe names.

    Attributes:
        name: a name of ours, of a hub, or the path of a metric script.
        options: of its computation, e.g. ``{"average": "macro"}``.
        module: of the evaluate library.
        ours: it was not loaded from elsewhere.
        gives: names of its numbers, where it was tried.
    """

    name: str
    options: dict[str, Any]
    module: Any
    ours: bool
    gives: tuple[str, ...] = ()

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Its numbers, by name; of ours, the values of the options are a part of the name: ``f1_macro``.

        Raises:
            ConfigError: it does not take these predictions or options.
        """
        try:
            result = self.module.compute(predictions=list(predictions), references=list(references), **self.options)
        except Exception as error:
            raise ConfigError(
                f"the metric {self.name!r} can't be computed: {type(error).__name__}: {error}",
                hint="Check its options in task.metrics, and that it fits the task's predictions.",
            ) from error
        suffix = "".join(f"_{value}" for value in self.options.values()) if self.ours else ""
        return {
            f"{key}{suffix}": float(value) for key, value in (result or {}).items() if isinstance(value, int | float)
        }


def load_metrics(choices: Sequence[MetricChoice], ours: Mapping[str, Any], trial: Sequence[Any]) -> list[NamedMetric]:
    """The metrics that a recipe names, each tried once, so that none fails after hours of training.

    Args:
        choices: what the recipe says.
        ours: name -> class of the metrics that the task brings along.
        trial: predictions to try them on.

    Raises:
        ConfigError: no such metric, or it does not take its options or such predictions.
    """
    found = []
    for choice in choices:
        options = {"name": choice} if isinstance(choice, str) else dict(choice)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError("task.metrics: a mapping needs the field 'name'", hint="For example: {name: f1, ...}.")
        module = ours[name](keep_in_memory=True) if name in ours else _from_evaluate(name, ours)
        metric = NamedMetric(name, options, module, name in ours)
        if trial:
            metric = replace(metric, gives=tuple(metric.compute(trial, trial)))
        found.append(metric)
    return found


def metric_name(choice: MetricChoice, *, options: bool = True) -> str:
    """What a metric's number is called, where it gives one number of its own name; or that name without its options."""
    if isinstance(choice, str):
        return choice
    own = str(choice.get("name"))
    return "_".join([own, *(str(value) for key, value in choice.items() if key != "name" and options)])


def classification_metrics(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 as macro and weighted averages."""
    averages = [{"name": name, "average": average} for name in ("precision", "recall", "f1") for average in
                ("macro", "weighted")]  # fmt: skip
    return _computed(["accuracy", *averages], class_metrics(), predictions, references)


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Exact match."""
    return _computed(["exact_match"], answer_metrics(), predictions, references)


def class_metrics() -> dict[str, Any]:
    """Metrics of class numbers, by name."""
    from pefttools.tasks.metric_modules import classification

    return {
        "accuracy": classification.Accuracy,
        "balanced_accuracy": classification.BalancedAccuracy,
        "precision": classification.Precision,
        "recall": classification.Recall,
        "f1": classification.F1,
        "matthews_correlation": classification.MatthewsCorrelation,
    }


def answer_metrics() -> dict[str, Any]:
    """Metrics of texts, by name."""
    from pefttools.tasks.metric_modules.text import ExactMatch

    return {"exact_match": ExactMatch}


def _computed(
    choices: Sequence[MetricChoice], ours: Mapping[str, Any], predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float]:
    metrics = load_metrics(choices, ours, ())
    return {name: value for one in metrics for name, value in one.compute(predictions, references).items()}


def _from_evaluate(name: str, ours: Mapping[str, Any]) -> Any:
    import evaluate

    try:
        return evaluate.load(name, keep_in_memory=True)
    except Exception as error:
        unknown = UnknownNameError("metric", name, ours)
        raise ConfigError(
            f"the metric {name!r} can't be loaded: {type(error).__name__}: {str(error).splitlines()[0]}",
            hint=f"Of those that need no hub: {unknown.hint} Else a name that the hub has, or the path of a script.",
        ) from error
