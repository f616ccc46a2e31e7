"""Metrics that the evaluate library loads: from a hub, or from a script."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError, UnknownNameError
from pefttools.metrics.metric import Measure, Metric

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

#: parts of the rows that are left out in turn, where leaving out single rows would take too long
_PARTS = 50


class ForeignMetric(Metric):
    """One of the numbers that a module of the evaluate library gives; predictions are handed over by their ``answer``.

    Args:
        name: of the number.
        given: what the module was asked for by, for messages.
        module: of the evaluate library.
        options: of its computation.
    """

    #: the library does not say which way a metric is better
    measure = Measure(higher_is_better=None)

    def __init__(self, name: str, given: str, module: Any, options: dict[str, Any]) -> None:
        self.name = name
        self._given = given
        self._module = module
        self._options = options

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        """The number.

        Raises:
            ConfigError: the module does not take these predictions or options.
        """
        found = computed(self._given, self._module, self._options, [one.answer for one in predictions], references)
        return found.get(self.name, float("nan"))

    def row_values(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers | None:
        """By leaving out parts of the rows; a part's share in the value is spread over its rows."""
        import numpy as np

        rows = len(predictions)
        parts = min(_PARTS, rows)
        if parts < 2:
            return None
        value = self.compute(predictions, references)
        # Neighbours are dealt out, so that each part is of all of the data.
        part = np.arange(rows) % parts
        without = np.empty(parts)
        for one in range(parts):
            kept = np.flatnonzero(part != one).tolist()
            without[one] = self.compute([predictions[i] for i in kept], [references[i] for i in kept])
        influence = (parts - 1) * (without.mean() - without)
        # Within a part rows are alike here, so that their spread is that of parts: of as many as there are rows.
        values: Numbers = value + (influence * np.sqrt(rows / parts))[part]
        return values - values.mean() + value if np.isfinite(values).all() else None


def load_foreign(name: str, options: dict[str, Any], trial: Sequence[Any], ours: Collection[str]) -> list[Metric]:
    """The numbers that a metric of elsewhere gives, tried once, so that it does not fail after hours of training.

    Args:
        name: that a hub has, or the path of a script.
        options: of its computation.
        trial: answers to try it on.
        ours: names of the metrics that need no hub, for messages.

    Raises:
        ConfigError: no such metric, or it does not take its options or such answers.
    """
    import evaluate

    try:
        module = evaluate.load(name, keep_in_memory=True)
    except Exception as error:
        unknown = UnknownNameError("metric", name, ours)
        raise ConfigError(
            f"the metric {name!r} can't be loaded: {type(error).__name__}: {str(error).splitlines()[0]}",
            hint=f"Of those that need no hub: {unknown.hint} Else a name that the hub has, or the path of a script.",
        ) from error
    return [ForeignMetric(key, name, module, options) for key in computed(name, module, options, trial, trial)]


def computed(
    name: str, module: Any, options: dict[str, Any], answers: Sequence[Any], references: Sequence[Any]
) -> dict[str, float]:
    """The numbers that a module gives.

    Raises:
        ConfigError: it does not take these answers or options.
    """
    try:
        result = module.compute(predictions=list(answers), references=list(references), **options)
    except Exception as error:
        raise ConfigError(
            f"the metric {name!r} can't be computed: {type(error).__name__}: {error}",
            hint="Check its options in task.metrics, and that it fits the task's predictions.",
        ) from error
    return {key: float(value) for key, value in (result or {}).items() if isinstance(value, int | float)}
