"""Multi-label classification: any number of labels for a text or a pair of texts."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.errors import DataError
from pefttools.metrics import Metric
from pefttools.metrics.losses import BinaryLoss
from pefttools.metrics.sets import HammingLoss, SetF1, SetPrecision, SetRecall, SubsetAccuracy
from pefttools.tasks.labels.class_labels import check_label, declared_labels, numbers_of
from pefttools.tasks.task import Evaluation, Example, Prediction, Role
from pefttools.tasks.text.text_head import TextHeadConfig, TextHeadTask
from pefttools.tasks.text.thresholds import best_thresholds

if TYPE_CHECKING:
    import torch

    from pefttools.tasks.labels.classes import ClassReport

_THRESHOLDS = "thresholds"


class MultiLabelConfig(TextHeadConfig):
    """Options of multi-label classification."""

    labels: list[str] = Field(
        default_factory=list, description="all labels, in output order; empty: those of the training rows"
    )
    separator: str = Field("|", min_length=1, description="separator of the labels in a text cell; lists need none")
    threshold: Literal["per-label", "shared"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        "per-label",
        description="probability at or above which a label is given. per-label: chosen for each label, by its F1 on "
        "validation; shared: one for all, by the micro F1; or a number, such as 0.5",
    )


@dataclass(frozen=True)
class LabelsPrediction(Prediction):
    """The labels of one row.

    Attributes:
        answer: numbers of the labels that it is given.
        probabilities: of each label.
        labels: their names.
    """

    answer: frozenset[int]
    probabilities: Sequence[float]
    labels: Sequence[str]

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {"prediction": self.shown(self.answer)}
        if all_scores:
            rounded = (round(probability, 8) for probability in self.probabilities)
            found["scores"] = dict(zip(self.labels, rounded, strict=True))
        return found

    def shown(self, answer: frozenset[int]) -> list[str]:
        return [self.labels[number] for number in sorted(answer)]

    def entry(self, reference: frozenset[int]) -> dict[str, Any]:
        return {**super().entry(reference), "correct": self.answer == reference}


class MultiLabelClassification(TextHeadTask[MultiLabelConfig]):
    """Columns `text`, optionally `pair`, and `labels`: a list, or a text with a separator; empty if a row has none.

    Each label has a probability of its own. Those that reach a threshold, which is chosen on validation, are given.
    """

    name = "multi-label-classification"
    summary = "any number of labels for a text or a pair of texts"
    config = MultiLabelConfig
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "pair": Role("text", required=False),
        "labels": Role("labels", is_input=False),
    }
    has_labels = True
    has_divergence = True
    has_outcomes = True
    named_metrics = {"f1": SetF1, "precision": SetPrecision, "recall": SetRecall}  # noqa: RUF012

    def __init__(self, config: MultiLabelConfig) -> None:
        super().__init__(config)
        #: share of the training rows with each label; None if not known
        self._shares: list[float] | None = None

    def usual_metrics(self) -> list[Metric]:
        averages = [kind(average) for average in ("micro", "macro") for kind in (SetF1, SetPrecision, SetRecall)]
        return [*averages, SubsetAccuracy(), HammingLoss(), BinaryLoss()]

    def labels(self, train: Table) -> list[str]:
        found = {label for index in range(len(train)) for label in self._labels_of(train, index)}
        names = declared_labels(self.options.labels) if self.options.labels else sorted(found)
        if not names:
            raise DataError(f"{train.source}: no row has a label in the column {train.columns['labels']!r}")
        return names

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        counts = Counter(label for index in range(len(train)) for label in self._labels_of(train, index))
        task = copy.copy(self)
        # One more row with each label, and one without, so that no share is 0 or 1.
        task._shares = [(counts[label] + 1) / (len(train) + 2) for label in labels]
        return task

    def first_bias(self) -> Sequence[float] | None:
        """Each label's log-odds in training (Lin et al. 2017): rare labels need not first be learned to be rare."""
        return None if self._shares is None else [math.log(share / (1 - share)) for share in self._shares]

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        known = set(numbers_of(tuple(labels)))
        for index in range(len(table)):
            self.check_texts(table, index)
            if labelled:
                for label in self._labels_of(table, index):
                    check_label(table, index, label, known, role="labels")

    def _labels_of(self, table: Table, index: int) -> list[str]:
        """The labels of a row.

        Raises:
            DataError: they are neither a list nor a text, or one is listed twice; names file, row and column.
        """
        value = table.rows[index]["labels"]
        if isinstance(value, str):
            value = [one for one in value.split(self.options.separator) if one.strip()]
        if not isinstance(value, list | tuple):
            raise table.error(
                index,
                "labels",
                f"expected a list of labels, or one text with {self.options.separator!r} between them, got {value!r}",
                hint="Write an empty list, or an empty text, if a row has no label.",
            )
        try:
            found = [label_text(one) or "" for one in value]
        except DataError as error:
            raise table.error(index, "labels", error.message, hint=error.hint) from error
        twice = [label for label, count in Counter(found).items() if count > 1]
        if twice:
            raise table.error(index, "labels", f"the label {twice[0]!r} is listed twice")
        return found

    def target(self, table: Table, index: int, labels: Sequence[str]) -> list[float]:
        given = {numbers_of(tuple(labels))[label] for label in self._labels_of(table, index)}
        return [float(number in given) for number in range(len(labels))]

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": [0.0] * len(labels)}

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torch.nn.functional import logsigmoid

        flat = logits.float().flatten()  # of each label: that it is not given, that it is
        return torch.stack([logsigmoid(-flat), logsigmoid(flat)], dim=-1), labels.flatten().long()

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        total = binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
        return total / (logits.numel() if num_items_in_batch is None else num_items_in_batch)

    def reference(self, example: Example, labels: Sequence[str]) -> frozenset[int]:
        return frozenset(number for number, given in enumerate(example["labels"]) if given)

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> LabelsPrediction:
        probabilities: list[float] = logits.sigmoid().tolist()
        return self._chosen(LabelsPrediction(frozenset(), probabilities, labels))

    def calibrate(self, predictions: Sequence[Prediction], references: Sequence[Any]) -> dict[str, Any] | None:
        if isinstance(self.options.threshold, float):
            return None
        probabilities = [one.probabilities for one in cast("Sequence[LabelsPrediction]", predictions)]
        return {_THRESHOLDS: best_thresholds(probabilities, references, shared=self.options.threshold == "shared")}

    def joint_calibration(self, calibrations: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        known = [one[_THRESHOLDS] for one in calibrations if one is not None]
        if len(known) < len(calibrations):
            return super().joint_calibration(calibrations)
        if any(one != known[0] for one in known):
            warnings.warn(
                "the thresholds of the sum are the mean of the adapters': other thresholds may be better on your data",
                stacklevel=2,
            )
        return {_THRESHOLDS: [math.fsum(limits) / len(known) for limits in zip(*known, strict=True)]}

    def finish(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        return [self._chosen(one) for one in cast("Sequence[LabelsPrediction]", predictions)]

    def _chosen(self, prediction: LabelsPrediction) -> LabelsPrediction:
        """A prediction with the labels whose probabilities reach the thresholds."""
        given = self.options.threshold
        usual = given if isinstance(given, float) else 0.5
        limits = (self.calibration or {}).get(_THRESHOLDS) or [usual] * len(prediction.labels)
        pairs = enumerate(zip(prediction.probabilities, limits, strict=True))
        return replace(prediction, answer=frozenset(number for number, (one, limit) in pairs if one >= limit))

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        """Always the labels that at least half of the rows have, or, if there are none, the most frequent one."""
        counts = Counter(number for one in references for number in one)
        shares = [counts[number] / len(references) for number in range(len(labels))]
        most = frozenset(number for number, share in enumerate(shares) if share >= 0.5)
        answer = most or frozenset({max(range(len(labels)), key=shares.__getitem__)})
        return [LabelsPrediction(answer, shares, labels)] * len(references)

    def class_report(self, evaluation: Evaluation, labels: Sequence[str]) -> ClassReport:
        from pefttools.tasks.labels.classes import label_report

        return label_report([one.answer for one in evaluation.predictions], evaluation.references, labels)
