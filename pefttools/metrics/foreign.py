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


class _Module:
    """A module of the evaluate library, run once for all of its numbers.

    Args:
        name: what it was asked for by, for messages.
        module: of the library.
        options: of its computation.
    """

    def __init__(self, name: str, module: Any, options: dict[str, Any]) -> None:
        self._name = name
        self._module = module
        self._options = options
        #: what it was run on last, and what came of it
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
    """One of the numbers that a module of the evaluate library gives; predictions are handed over by their ``answer``.

    Args:
        name: of the number.
        module: gives it.
    """

    #: the library does not say which way a metric is better
    measure = Measure(higher_is_better=None)

    def __init__(self, name: str, module: _Module) -> None:
        self.name = name
        self._module = module

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        return self._module(predictions, references).get(self.name, float("nan"))

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
    shared = _Module(name, module, options)
    return [ForeignMetric(key, shared) for key in shared.of_answers(trial, trial)]
