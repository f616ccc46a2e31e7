"""What an evaluation says of each class: precision, recall, F1, and which classes are taken for one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        label: its name.
        rows: number of rows that have it.
        predicted: number of rows that were given it.
        precision: share of `predicted` that have it; 0 where there are none.
        recall: share of `rows` that were given it; 0 where there are none.
        f1: harmonic mean of both.
    """

    label: str
    rows: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another, or found; a cell of the confusion matrix that is not zero."""

    reference: str
    prediction: str
    rows: int


@dataclass(frozen=True)
class ClassReport:
    """Scores per class, in the order of the labels, and the cells of the confusion matrix, largest first."""

    classes: list[ClassScore]
    confusion: list[Confusion]

    def mistakes(self) -> list[Confusion]:
        """Cells off the diagonal."""
        return [cell for cell in self.confusion if cell.reference != cell.prediction]

    def matrix(self) -> list[list[int]]:
        """The confusion matrix: a row per true class, a column per predicted one."""
        cells = {(cell.reference, cell.prediction): cell.rows for cell in self.confusion}
        labels = [one.label for one in self.classes]
        return [[cells.get((reference, prediction), 0) for prediction in labels] for reference in labels]

    def compact(self) -> dict[str, Any]:
        """As few bytes as there is to know: per class the fields of `ClassScore`, per cell the two classes' numbers."""
        number = {one.label: index for index, one in enumerate(self.classes)}
        return {
            "columns": ["label", "rows", "predicted", "precision", "recall", "f1"],
            "classes": [
                [
                    one.label,
                    one.rows,
                    one.predicted,
                    *(round(value, 4) for value in (one.precision, one.recall, one.f1)),
                ]
                for one in self.classes
            ],
            "confusion": [[number[cell.reference], number[cell.prediction], cell.rows] for cell in self.confusion],
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def class_report(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> ClassReport:
    """Scores per class by scikit-learn.

    Args:
        predictions: a label per row.
        references: the true one.
        labels: all of them, in the order of the report.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, rows = precision_recall_fscore_support(
        references, predictions, labels=list(labels), zero_division=0
    )
    predicted = Counter(predictions)
    classes = [
        ClassScore(label, int(rows[at]), predicted[label], float(precision[at]), float(recall[at]), float(f1[at]))
        for at, label in enumerate(labels)
    ]
    cells = Counter(zip(references, predictions, strict=True))
    return ClassReport(classes, [Confusion(*pair, count) for pair, count in cells.most_common()])
