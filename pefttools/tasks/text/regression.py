"""Regression: one number for a text, or for a pair of texts, such as how alike they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.regression import MAE, RMSE, Pearson, Spearman, SquaredError
from pefttools.tasks.task import Batch, Evaluation, Example, Prediction, Role
from pefttools.tasks.text.text_head import TextHeadConfig, TextHeadTask

if TYPE_CHECKING:
    import torch

_MEAN, _SCALE = "mean", "scale"


class RegressionConfig(TextHeadConfig):
    """Options of regression."""

    range: tuple[float, float] | None = Field(
        None, description="minimum and maximum of the number: predictions are clipped to them, rows outside are refused"
    )


@dataclass(frozen=True)
class NumberPrediction(Prediction):
    """The number of one row.

    Attributes:
        answer: the number.
    """

    answer: float

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        return {"prediction": round(self.answer, 6)}


class Regression(TextHeadTask[RegressionConfig]):
    """Columns `text`, optionally `pair`, and `number`.

    The head learns how many standard deviations of the training rows a number is from their mean, so that learning
    rates do not depend on its unit.
    """

    name = "regression"
    summary = "one number for a text or a pair of texts: ratings, similarity"
    config = RegressionConfig
    has_divergence = True
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "pair": Role("text", required=False),
        "number": Role("number", is_input=False),
    }

    def usual_metrics(self) -> list[Metric]:
        return [Pearson(), Spearman(), RMSE(), MAE(), SquaredError()]

    def outputs(self, labels: Sequence[str]) -> int:
        return 1

    def labels(self, train: Table) -> list[str]:
        return []

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        numbers = [float(value) for value in train.column("number")]
        mean = math.fsum(numbers) / len(numbers)
        scale = math.sqrt(math.fsum((one - mean) ** 2 for one in numbers) / len(numbers))
        if not scale:
            raise ConfigError(f"{train.source}: all rows have the same number, {numbers[0]:g}: nothing can be learned")
        return self.calibrated({_MEAN: mean, _SCALE: scale})

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            self.check_texts(table, index)
            if labelled:
                self._check_number(table, index, row)

    def _check_number(self, table: Table, index: int, row: Mapping[str, Any]) -> None:
        value = row["number"]
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise table.error(index, "number", f"expected a number, got {value!r}", hint="Fill it or drop the row.")
        low, high = self.options.range or (-math.inf, math.inf)
        if not low <= number <= high:
            raise table.error(index, "number", f"{number:g} is not within task.range, {low:g} to {high:g}")

    def target(self, table: Table, index: int, labels: Sequence[str]) -> float:
        return float(table.rows[index]["number"])

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": 0.0}

    def divergence(
        self,
        logits: torch.Tensor,
        others: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Half the squared difference: the divergence of two normal distributions of variance 1."""
        total = (logits[..., 0].float() - others[..., 0].float()).square().sum() / 2
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        total = (logits[..., 0].float() - labels).square().sum()
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        batch = super().collate(examples, tokenizer)
        if "labels" in batch:
            mean, scale = self._standard
            batch["labels"] = (batch["labels"].float() - mean) / scale
        return batch

    def why_not_merged(self, kind: str, format: str) -> str | None:
        return "its head gives standard deviations from the training rows' mean, which would be taken for numbers"

    @property
    def _standard(self) -> tuple[float, float]:
        """Mean and standard deviation of the training rows."""
        known = self.calibration or {}
        return known.get(_MEAN, 0.0), known.get(_SCALE, 1.0)

    def calibrate(self, predictions: Sequence[Prediction], references: Sequence[Any]) -> dict[str, Any] | None:
        return self.calibration

    def trial_answers(self, labels: Sequence[str]) -> Sequence[float]:
        return [0.5, 1.5, -2.0]

    def reference(self, example: Example, labels: Sequence[str]) -> float:
        return float(example["labels"])

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> NumberPrediction:
        mean, scale = self._standard
        low, high = self.options.range or (-math.inf, math.inf)
        return NumberPrediction(min(max(mean + scale * float(logits[0]), low), high))

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        """Always the mean, for which no correlation is defined."""
        return [NumberPrediction(math.fsum(references) / len(references))] * len(references)

    def tells_apart(self, evaluation: Evaluation) -> bool:
        """Whether the rank correlation is above 0 by two standard errors."""
        correlation = Spearman().compute(evaluation.predictions, evaluation.references)
        return correlation > 2 / math.sqrt(max(len(evaluation.references) - 1, 1))
