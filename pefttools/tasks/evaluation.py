"""What an evaluation gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pefttools.tasks.classes import ClassReport


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a table, with one prediction per row, in the table's order.

    Each prediction has ``prediction``, ``reference`` and ``correct``.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]

    def answers(self) -> list[Any]:
        """The predictions alone."""
        return [entry["prediction"] for entry in self.predictions]

    def classes(self, labels: Sequence[str]) -> ClassReport | None:
        """Scores per class, and the confusion matrix; None for a task without labels."""
        from pefttools.tasks.classes import class_report

        if not labels:
            return None
        return class_report(self.answers(), [entry["reference"] for entry in self.predictions], labels)
