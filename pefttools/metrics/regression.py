"""Metrics of numbers: predictions have one as ``answer``; references are numbers.

References:
    Croux, C. and Dehon, C. (2010). Influence functions of the Spearman and Kendall correlation measures. Statistical
        Methods and Applications 19.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.metrics.additive import AdditiveMetric, MeanMetric
from pefttools.metrics.metric import Measure, Metric

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from pefttools.metrics.metric import Numbers

_CORRELATION = Measure("", True, (-1.0, 1.0))


class RMSE(AdditiveMetric):
    """Root of the mean squared error, in the unit of the numbers."""

    name, measure = "rmse", Measure.error()

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        return (prediction.answer - reference) ** 2, 1.0

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        return np.sqrt(total[..., 0] / total[..., 1])


class SquaredError(MeanMetric):
    """Mean squared error, in the square of the numbers' unit."""

    name, measure = "loss", Measure.error()

    def number(self, prediction: Any, reference: Any) -> float:
        return (float(prediction.answer) - float(reference)) ** 2


class MAE(MeanMetric):
    """Mean absolute error, in the unit of the numbers."""

    name, measure = "mae", Measure.error()

    def number(self, prediction: Any, reference: Any) -> float:
        return abs(float(prediction.answer) - float(reference))


class Pearson(AdditiveMetric):
    """Pearson's correlation; NaN if all predictions, or all references, are the same."""

    name, measure = "pearson", _CORRELATION

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, ...]:
        return _products(prediction.answer, reference)

    def contributions(self, predictions: Sequence[Any], references: Sequence[Any]) -> csr_array:
        """Those of centred numbers, whose sums of products lose no digits."""
        import numpy as np
        from scipy.sparse import csr_array

        given, true = _pairs(predictions, references)
        # Not the mean, but one number for all rows: a shift that the value does not depend on.
        return csr_array(np.stack(_products(given - given.mean(), true - true.mean()), axis=1))

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        rows, x, y, xx, yy, xy = np.moveaxis(total, -1, 0)
        spread = (xx - x * x / rows) * (yy - y * y / rows)
        covariance = xy - x * y / rows
        found: Numbers = np.divide(covariance, np.sqrt(spread), where=spread > 0, out=np.full_like(spread, np.nan))
        return found


class Spearman(Metric):
    """Spearman's rank correlation: Pearson's of the ranks, ties at their mean rank."""

    name, measure = "spearman", _CORRELATION

    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        import numpy as np
        from scipy.stats import rankdata

        given, true = _pairs(predictions, references)
        if len(given) < 2 or np.ptp(given) == 0 or np.ptp(true) == 0:
            return float("nan")
        return float(np.corrcoef(rankdata(given), rankdata(true))[0, 1])

    def row_values(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers | None:
        """By the influence function: ranks are not sums, and leaving out rows one by one would take too long."""
        import numpy as np

        given, true = _pairs(predictions, references)
        rho = self.compute(predictions, references)
        if len(given) < 3 or not np.isfinite(rho):
            return None
        u, v = _middle_ranks(given), _middle_ranks(true)
        # Moments of the ranks; a row contributes to each, and shifts the ranks of those above and below it.
        covariance, of_u, of_v = (u * v).mean(), (u * u).mean(), (v * v).mean()
        d_covariance = u * v + _moved(given, v) + _moved(true, u) - 3 * covariance
        d_u = u * u + 2 * _moved(given, u) - 3 * of_u
        d_v = v * v + 2 * _moved(true, v) - 3 * of_v
        influence = d_covariance / np.sqrt(of_u * of_v) - rho / 2 * (d_u / of_u + d_v / of_v)
        values: Numbers = rho + influence - influence.mean()
        return values


def _pairs(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[Numbers, Numbers]:
    import numpy as np

    given = np.array([one.answer for one in predictions], dtype=np.float64)
    return given, np.array(references, dtype=np.float64)


def _products(x: Any, y: Any) -> tuple[Any, ...]:
    return x * 0 + 1.0, x, y, x * x, y * y, x * y


def _middle_ranks(values: Numbers) -> Numbers:
    """Share of the rows below each, counting equal ones half, centred at 0."""
    from scipy.stats import rankdata

    found: Numbers = (rankdata(values) - 0.5) / len(values) - 0.5
    return found


def _moved(values: Numbers, others: Numbers) -> Numbers:
    """Mean over all rows of `others` times what a row adds to their ranks by `values`: 1 above it, half at its own."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    ranked = values[order]
    sums = np.concatenate([[0.0], np.cumsum(others[order])])
    first, end = np.searchsorted(ranked, values, "left"), np.searchsorted(ranked, values, "right")
    above, equal = sums[-1] - sums[end], sums[end] - sums[first]
    # Ranks are centred at 0: each is 1/2 less than the share of rows that are below it.
    moved: Numbers = (above + equal / 2 - others.sum() / 2) / len(values)
    return moved
