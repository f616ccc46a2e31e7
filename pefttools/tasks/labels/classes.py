"""What an evaluation says about each class: precision, recall, F1, and which classes are confused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        label: its name.
        rows: number of rows that have it.
        predicted: number of rows that were given it.
        precision: share of `predicted` that have it; 0 if there are none.
        recall: share of `rows` that were given it; 0 if there are none.
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
    """How often one class was taken for another, or found; a nonzero cell of the confusion matrix."""

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
        """In as few bytes as possible: per class the fields of `ClassScore`, per cell the two classes' numbers."""
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


def label_report(
    predictions: Sequence[Collection[int]], references: Sequence[Collection[int]], labels: Sequence[str]
) -> ClassReport:
    """Scores per label where a row may have several: no label is confused with another."""
    given, true = (Counter(number for one in rows for number in one) for rows in (predictions, references))
    right = Counter(
        number for one, truth in zip(predictions, references, strict=True) for number in set(one) & set(truth)
    )
    classes = []
    for number, label in enumerate(labels):
        precision = right[number] / given[number] if given[number] else 0.0
        recall = right[number] / true[number] if true[number] else 0.0
        f1 = 2 * right[number] / (given[number] + true[number]) if given[number] + true[number] else 0.0
        classes.append(ClassScore(label, true[number], given[number], precision, recall, f1))
    return ClassReport(classes, [])


def above_chance(answers: Sequence[int], references: Sequence[int]) -> bool:
    """Whether the mean recall of the labels is above chance level by two standard errors."""
    counts, given = Counter(references), Counter(answers)
    right = Counter(one for one, truth in zip(answers, references, strict=True) if one == truth)
    shares = {label: given[label] / len(answers) for label in counts}
    excess = sum(right[label] / count - shares[label] for label, count in counts.items()) / len(counts)
    error = math.sqrt(sum(shares[label] * (1 - shares[label]) / count for label, count in counts.items())) / len(counts)
    return excess > 2 * error
