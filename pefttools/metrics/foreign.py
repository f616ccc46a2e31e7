"""Metrics that the evaluate library loads: from a hub, or from a script."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError, UnknownNameError
from pefttools.metrics.metric import Measure, Metric

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

#: number of parts of the rows that are left out in turn, if leaving out single rows would take too long
_PARTS = 50


class _Module:
    """A module of the evaluate library, run once for all of its numbers.

    Args:
        name: the name that it was requested by, for messages.
        module: the library's module.
        options: options of its computation.
    """

    def __init__(self, name: str, module: Any, options: dict[str, Any]) -> None:
        self._name = name
        self._module = module
        self._options = options
        #: what it was last run on, and the result
        self._last: tuple[Sequence[Any], Sequence[Any], dict[str, float]] | None = None

    def __call__(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """The numbers for predictions."""
        last = self._last
        if last is None or last[0] is not predictions or last[1] is not references:
            answers = [one.answer for one in predictions]
            self._last = last = (predictions, references, self.of_answers(answers, references))
        return last[2]

    def of_answers(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """The numbers for answers.

        Raises:
            ConfigError: the module does not take these answers or options.
        """
        try:
            result = self._module.compute(predictions=list(answers), references=list(references), **self._options)
        except Exception as error:
            raise ConfigError(
                f"the metric {self._name!r} can't be computed: {type(error).__name__}: {error}",
                hint="Check its options in task.metrics, and that it fits the task's predictions.",
            ) from error
        return {key: float(value) for key, value in (result or {}).items() if isinstance(value, int | float)}


class ForeignMetric(Metric):
    """One of the numbers that a module of the evaluate library gives; of predictions it gets the ``answer``.

    Args:
        name: name of the number.
        module: the module that gives it.
    """

    #: the library does not say which way a metric is better
    measure = Measure(higher_is_better=None)

    def __init__(self, name: str, module: _Module) -> None:
        self.name = name
        self._module = module

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        return self._module(predictions, references).get(self.name, float("nan"))

    def row_values(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers | None:
        """By leaving out parts of the rows; a part's influence on the value is spread over its rows."""
        import numpy as np

        rows = len(predictions)
        parts = min(_PARTS, rows)
        if parts < 2:
            return None
        value = self.compute(predictions, references)
        # Neighbouring rows go to different parts, so that each part is a sample of all of the data.
        part = np.arange(rows) % parts
        without = np.empty(parts)
        for one in range(parts):
            kept = np.flatnonzero(part != one).tolist()
            without[one] = self.compute([predictions[i] for i in kept], [references[i] for i in kept])
        influence = (parts - 1) * (without.mean() - without)
        # Within a part rows have the same value here, so their spread is that of parts, scaled to the number of rows.
        values: Numbers = value + (influence * np.sqrt(rows / parts))[part]
        return values - values.mean() + value if np.isfinite(values).all() else None


def load_foreign(name: str, options: dict[str, Any], trial: Sequence[Any], ours: Collection[str]) -> list[Metric]:
    """The numbers that an external metric gives, tried once, so that it does not fail after hours of training.

    Args:
        name: a name on the hub, or the path of a script.
        options: options of its computation.
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
            hint=f"Metrics that need no hub: {unknown.hint} Otherwise give a name on the hub, or the path of a script.",
        ) from error
    shared = _Module(name, module, options)
    return [ForeignMetric(key, shared) for key in shared.of_answers(trial, trial)]
