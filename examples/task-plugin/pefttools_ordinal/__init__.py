"""Ordinal classification: ordered levels, such as low, medium and high, or one to five stars.

The head has an output for every step between two levels: whether a text is above it (Cheng, Wang and Pollastri 2008,
A neural network approach to ordinal regression, IJCNN). Being off by one step is better than by three, so it is
measured by Cohen's kappa with quadratic weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.metrics import AdditiveMetric, Measure, Metric
from pefttools.metrics.classes import Accuracy
from pefttools.tasks.labels.class_labels import check_label, numbers_of
from pefttools.tasks.task import Example, Prediction, Role
from pefttools.tasks.text.text_head import TextHeadConfig, TextHeadTask

if TYPE_CHECKING:
    import torch

#: more levels than anybody can distinguish
_MOST = 20


class OrdinalConfig(TextHeadConfig):
    """Options of ordinal classification."""

    levels: list[str] = Field(min_length=2, max_length=_MOST, description="all levels, from the lowest on")


@dataclass(frozen=True)
class LevelPrediction(Prediction):
    """The level of one row.

    Attributes:
        answer: its number, from 0 on.
        above: for every step between two levels, the probability that the row is above it.
        levels: their names.
    """

    answer: int
    above: Sequence[float]
    levels: Sequence[str]

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {"prediction": self.levels[self.answer]}
        if all_scores:
            steps = (f"above {level}" for level in self.levels)
            found["scores"] = {step: round(p, 8) for step, p in zip(steps, self.above, strict=False)}
        return found

    def shown(self, answer: int) -> str:
        return self.levels[answer]


class QuadraticKappa(AdditiveMetric):
    """Cohen's kappa with quadratic weights: 0 for guessing by the levels' frequencies, 1 if everything is right."""

    name, measure = "quadratic_kappa", Measure("", True, (-1.0, 1.0))

    def contribution(self, prediction: LevelPrediction, reference: int) -> dict[int, float]:
        return {_MOST * reference + prediction.answer: 1.0, _MOST * _MOST - 1: 0.0}

    def value(self, total: Any) -> Any:
        import numpy as np

        counts = total.reshape(*total.shape[:-1], _MOST, _MOST)
        steps = np.arange(_MOST)
        weights = (steps[:, None] - steps) ** 2
        true, given = counts.sum(-1), counts.sum(-2)
        by_chance = np.einsum("...i,...j,ij->...", true, given, weights) / counts.sum((-1, -2))
        off = (counts * weights).sum((-1, -2))
        return 1 - np.divide(off, by_chance, where=by_chance > 0, out=np.zeros_like(by_chance))


class Ordinal(TextHeadTask[OrdinalConfig]):
    """Columns `text`, optionally `pair`, and `level`."""

    name = "ordinal"
    summary = "one of several ordered levels"
    config = OrdinalConfig
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "pair": Role("text", required=False),
        "level": Role("label", is_input=False),
    }
    has_labels = True

    def usual_metrics(self) -> list[Metric]:
        return [QuadraticKappa(), Accuracy()]

    def labels(self, train: Table) -> list[str]:
        return list(self.options.levels)

    def outputs(self, labels: Sequence[str]) -> int:
        return len(labels) - 1

    def strata(self, row: Row) -> Hashable | None:
        return str(row["level"])

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            self.check_texts(table, index)
            if labelled:
                check_label(table, index, row["level"], labels, role="level")

    def target(self, table: Table, index: int, labels: Sequence[str]) -> list[float]:
        level = numbers_of(tuple(labels))[str(table.rows[index]["level"])]
        return [float(level > step) for step in range(self.outputs(labels))]

    def planned_example(self, length: int, labels: Sequence[str] = ("", "")) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": [0.0] * self.outputs(labels)}

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        total = binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def reference(self, example: Example, labels: Sequence[str]) -> int:
        return round(sum(example["labels"]))

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> LevelPrediction:
        above: list[float] = logits.sigmoid().tolist()
        return LevelPrediction(sum(p >= 0.5 for p in above), above, labels)

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        most, _ = Counter(references).most_common(1)[0]
        return [LevelPrediction(most, [0.0] * self.outputs(labels), labels)] * len(references)
