"""What a model predicts for rows, and how good that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pefttools.metrics import Metric

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers


@dataclass(frozen=True)
class Prediction(ABC):
    """What a model predicts for one row. Each task has its own kind, with what its metrics need besides the answer.

    Attributes:
        answer: what metrics compare with the reference.
    """

    answer: Any

    @abstractmethod
    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        """Plain values, for JSON: ``prediction``, and what else is known.

        Args:
            all_scores: whether to add ``scores``, the probability of every label, if there are labels.
        """

    def shown(self, answer: Any) -> Any:
        """An answer, or a reference, as it appears in `as_dict`."""
        return answer

    def says(self, other: Prediction) -> bool:
        """Whether another prediction of the same row says the same."""
        return bool(self.shown(self.answer) == other.shown(other.answer))

    def entry(self, reference: Any) -> dict[str, Any]:
        """Plain values, with ``reference``, and ``correct`` if an answer is simply right or wrong."""
        return {**self.as_dict(), "reference": self.shown(reference)}


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a table.

    Attributes:
        metrics: value by name.
        predictions: one per row, in the table's order.
        references: the right answers, one per row.
        measured: the metrics themselves.
        calibration: with which the predictions were made, see `Task.calibrate`.
    """

    metrics: dict[str, float]
    predictions: Sequence[Prediction] = ()
    references: Sequence[Any] = ()
    measured: Sequence[Metric] = field(default=(), compare=False, repr=False)
    calibration: dict[str, Any] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, metrics: Sequence[Metric], predictions: Sequence[Prediction], references: Sequence[Any]) -> Evaluation:
        """Measure predictions."""
        values = {metric.name: metric.compute(predictions, references) for metric in metrics}
        return cls(values, predictions, references, metrics)

    def row_values(self, metric: str) -> Numbers | None:
        """One number per row, if the metric has them; see `Metric.row_values`."""
        (found,) = (one for one in self.measured if one.name == metric)
        return found.row_values(self.predictions, self.references)

    def answers(self) -> list[Any]:
        """The answers alone, as they are shown."""
        return [one.shown(one.answer) for one in self.predictions]

    def entries(self) -> list[dict[str, Any]]:
        """One dictionary per row, with ``prediction`` and ``reference``."""
        return [one.entry(truth) for one, truth in zip(self.predictions, self.references, strict=True)]
