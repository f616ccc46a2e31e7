"""Metrics that are a function of sums over the rows, and how much each row contributes to their value.

References:
    Efron, B. and Stein, C. (1981). The jackknife estimate of variance. Annals of Statistics 9.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pefttools.metrics.metric import Metric

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from pefttools.metrics.metric import Numbers

#: what a row adds: all numbers, or those that are not 0, by their place
Contribution = Sequence[float] | Mapping[int, float]
#: how many numbers are processed together when rows are left out
_AT_A_TIME = 1 << 22


class MeanMetric(Metric):
    """The mean of a number that each row has on its own, such as a loss, or 1 for a right answer."""

    @abstractmethod
    def number(self, prediction: Any, reference: Any) -> float:
        """A row's number."""

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        return float(self._numbers(predictions, references).mean())

    def row_values(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers | None:
        import numpy as np

        values = self._numbers(predictions, references)
        return values if np.isfinite(values).all() else None

    def _numbers(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers:
        import numpy as np

        pairs = zip(predictions, references, strict=True)
        return np.array([self.number(prediction, reference) for prediction, reference in pairs], dtype=np.float64)


class AdditiveMetric(Metric):
    """A metric of what its rows contribute: their sum decides its value.

    Example:
        The root mean squared error is a function of two sums, of squared errors and of rows::

            class RMSE(AdditiveMetric):
                name, measure = "rmse", Measure(higher_is_better=False)

                def contribution(self, prediction, reference):
                    return ((prediction.answer - reference) ** 2, 1.0)

                def value(self, total):
                    return np.sqrt(total[..., 0] / total[..., 1])
    """

    @abstractmethod
    def contribution(self, prediction: Any, reference: Any) -> Contribution:
        """What a row adds to the sums: all of them, or a mapping from place to number for those that are not 0."""

    @abstractmethod
    def value(self, total: Numbers) -> Numbers:
        """The metric of sums ``[..., sums]``, for each of the leading dimensions; shape ``[...]``."""

    def contributions(self, predictions: Sequence[Any], references: Sequence[Any]) -> csr_array:
        """What each row adds, ``[rows, sums]``."""
        import numpy as np
        from scipy.sparse import csr_array

        data: list[float] = []
        places: list[int] = []
        ends = [0]
        sums = 0
        for prediction, reference in zip(predictions, references, strict=True):
            given = self.contribution(prediction, reference)
            if isinstance(given, Mapping):
                places += given.keys()
                data += given.values()
                sums = max(sums, 1 + max(given, default=-1))
            else:
                places += range(len(given))
                data += given
                sums = max(sums, len(given))
            ends.append(len(places))
        return csr_array((np.asarray(data, dtype=np.float64), places, ends), shape=(len(ends) - 1, sums))

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        return float(self._value_of(self.contributions(predictions, references).sum(axis=0)))

    def row_values(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers | None:
        """By leaving out each row in turn; see `Metric.row_values`."""
        import numpy as np

        given = self.contributions(predictions, references)
        rows, sums = given.shape
        if rows < 2:
            return None
        total = given.sum(axis=0)
        at_a_time = max(1, _AT_A_TIME // max(sums, 1))
        without = np.concatenate(
            [self._value_of(total - given[i : i + at_a_time].toarray()) for i in range(0, rows, at_a_time)]
        )
        values: Numbers = float(self._value_of(total)) + (rows - 1) * (without.mean() - without)
        return values if np.isfinite(values).all() else None

    def _value_of(self, total: Numbers) -> Numbers:
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.value(np.asarray(total, dtype=np.float64)))
