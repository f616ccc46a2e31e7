"""Metrics of one class per row: predictions have it as ``answer``, a number; references are numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pefttools.metrics.additive import AdditiveMetric, MeanMetric
from pefttools.metrics.metric import Measure
from pefttools.metrics.ratios import Kind, ratio

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

Average = Literal["macro", "micro", "weighted", "binary"]


class Accuracy(MeanMetric):
    """Share of right predictions."""

    name, measure = "accuracy", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return float(prediction.answer == reference)


class _OfCounts(AdditiveMetric):
    """A function of how often each class was predicted correctly, predicted wrongly, and missed."""

    measure = Measure.share()

    def contribution(self, prediction: Any, reference: Any) -> dict[int, float]:
        if prediction.answer == reference:
            return {3 * reference: 1.0}
        return {3 * prediction.answer + 1: 1.0, 3 * reference + 2: 1.0}

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        missing = -total.shape[-1] % 3
        if missing:
            total = np.concatenate([total, np.zeros((*total.shape[:-1], missing))], axis=-1)
        counts = total.reshape(*total.shape[:-1], -1, 3)
        return self._of(counts[..., 0], counts[..., 1], counts[..., 2])

    @abstractmethod
    def _of(self, right: Numbers, wrong: Numbers, missed: Numbers) -> Numbers:
        """The metric of counts ``[..., classes]``."""


class BalancedAccuracy(_OfCounts):
    """Recall, averaged over the classes that occur in the references."""

    name, measure = "balanced_accuracy", Measure.share(over_classes=True)

    def _of(self, right: Numbers, wrong: Numbers, missed: Numbers) -> Numbers:
        import numpy as np

        there = right + missed > 0
        recall = np.divide(right, right + missed, where=there, out=np.zeros_like(right))
        found: Numbers = recall.sum(-1) / there.sum(-1)
        return found


class MatthewsCorrelation(_OfCounts):
    """Matthews' correlation coefficient: 0 for guessing, whatever the shares of the classes."""

    name, measure = "matthews_correlation", Measure("", True, (-1.0, 1.0))

    def _of(self, right: Numbers, wrong: Numbers, missed: Numbers) -> Numbers:
        import numpy as np

        predicted, true = right + wrong, right + missed
        rows = true.sum(-1)
        covariance = right.sum(-1) * rows - (predicted * true).sum(-1)
        spread = (rows**2 - (predicted**2).sum(-1)) * (rows**2 - (true**2).sum(-1))
        found: Numbers = np.divide(covariance, np.sqrt(spread), where=spread > 0, out=np.zeros_like(spread))
        return found


class Averaged(_OfCounts):
    """Precision, recall or F1.

    Args:
        average: ``macro``: the mean over the classes that occur; ``weighted``: weighted by their rows; ``micro``: over
            all rows together; ``binary``: of one class only.
        zero_division: value for a class for which it is 0 / 0.
        pos_label: with ``binary``, the number of the class.
    """

    kind: ClassVar[Kind]

    def __init__(self, average: Average | None = None, zero_division: float = 0.0, pos_label: int = 1) -> None:
        if average not in (None, "macro", "micro", "weighted", "binary"):
            raise ValueError(f"average must be macro, micro, weighted or binary, not {average!r}")
        self.average = average or "macro"
        self.measure = Measure.share(over_classes=self.average == "macro")
        self.zero_division = float(zero_division)
        self.pos_label = pos_label
        given: Mapping[str, Any] = {"": average, "zero_division": zero_division, "pos_label": pos_label}
        usual = {"": None, "zero_division": 0, "pos_label": 1}
        self.name = "_".join([self.kind, *(str(value) for key, value in given.items() if value != usual[key])])

    def _of(self, right: Numbers, wrong: Numbers, missed: Numbers) -> Numbers:
        import numpy as np

        if self.average == "micro":
            return ratio(self.kind, right.sum(-1), wrong.sum(-1), missed.sum(-1), self.zero_division)
        each = ratio(self.kind, right, wrong, missed, self.zero_division)
        if self.average == "binary":
            return each[..., self.pos_label] if self.pos_label < each.shape[-1] else np.zeros(each.shape[:-1])
        weights = right + missed if self.average == "weighted" else self._counted(right + wrong + missed)
        found: Numbers = (each * weights).sum(-1) / weights.sum(-1)
        return found

    def _counted(self, seen: Numbers) -> Numbers:
        """1 for each class that a macro average counts, of how often each was seen."""
        import numpy as np

        return np.where(seen > 0, 1.0, 0.0)


class Precision(Averaged):
    """Share of what was predicted that is right."""

    kind = "precision"


class Recall(Averaged):
    """Share of what is there that was predicted."""

    kind = "recall"


class F1(Averaged):
    """Harmonic mean of precision and recall."""

    kind = "f1"
