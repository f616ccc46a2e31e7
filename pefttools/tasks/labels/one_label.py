"""What tasks that give each row one label of several have in common."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.data.labels import label_text
from pefttools.data.notes import label_notes
from pefttools.errors import ConfigError, DataError
from pefttools.metrics import Metric
from pefttools.metrics.classes import F1, Accuracy, BalancedAccuracy, MatthewsCorrelation, Precision, Recall
from pefttools.metrics.losses import LogLoss
from pefttools.tasks.head import HeadTask
from pefttools.tasks.labels.class_config import ClassOptions
from pefttools.tasks.labels.class_labels import answers_of, check_label, label_names, numbers_of, read_label, told_apart
from pefttools.tasks.labels.class_weights import balanced, by_effective_number
from pefttools.tasks.task import Evaluation, Example, Prediction

if TYPE_CHECKING:
    import torch

    from pefttools.tasks.labels.classes import ClassReport


ConfigT = TypeVar("ConfigT", bound=ClassOptions)


@dataclass(frozen=True)
class ClassPrediction(Prediction):
    """The label of one row.

    Attributes:
        answer: number of the most likely label.
        probabilities: of each label.
        labels: their names.
    """

    answer: int
    probabilities: Sequence[float]
    labels: Sequence[str]

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        found = {"prediction": self.labels[self.answer], "score": round(self.probabilities[self.answer], 8)}
        if all_scores:
            rounded = (round(probability, 8) for probability in self.probabilities)
            found["scores"] = dict(zip(self.labels, rounded, strict=True))
        return found

    def shown(self, answer: int) -> str:
        return self.labels[answer]

    def entry(self, reference: int) -> dict[str, Any]:
        return {**super().entry(reference), "correct": self.answer == reference}


class OneLabelTask(HeadTask[ConfigT]):
    """One label per row, in the column `label`."""

    has_labels = True
    one_label = True
    has_divergence = True
    has_outcomes = True
    named_metrics = {  # noqa: RUF012
        "accuracy": Accuracy,
        "balanced_accuracy": BalancedAccuracy,
        "precision": Precision,
        "recall": Recall,
        "f1": F1,
        "matthews_correlation": MatthewsCorrelation,
    }

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        #: factors of the loss in the order of the labels; None if all are 1, or not worked out yet
        self._weights: list[float] | None = None
        #: whether each label is told apart from each other one, with a last row for a label that is not known; None if
        #: all are, or not worked out yet
        self._apart: list[list[bool]] | None = None

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        task = self._weighted(train, labels)
        self.allowed_answers(labels)
        if not task.options.among:
            return task
        task = copy.copy(task)
        task._apart = told_apart(task.options.among, labels)
        for index, row in enumerate(train.rows):
            if not task._apart[-1][numbers_of(tuple(labels))[label_text(row["label"]) or ""]]:
                raise train.error(index, "label", f"the label {row['label']!r} is in no group of task.among")
        return task

    def allowed_answers(self, labels: Sequence[str]) -> Sequence[bool] | None:
        return answers_of(tuple(self.options.answers), tuple(map(tuple, self.options.among)), tuple(labels))

    def to_be_attacked(self, labels: Sequence[str]) -> Self:
        task = copy.copy(self)
        task.options = self.options.model_copy(update={"class_weights": None})
        if self.options.among:
            task._apart = told_apart(self.options.among, labels)
        return task

    def _weighted(self, train: Table, labels: Sequence[str]) -> Self:
        given = self.options.class_weights
        if given is None:
            return self
        if isinstance(given, str):
            counts = Counter(map(label_text, train.column("label")))
            there = {label: counts[label] for label in labels if counts[label]}
            found = balanced(there) if given == "balanced" else by_effective_number(there)
            # A label without a training row has no effect in any case.
            given = {label: found.get(label, 1.0) for label in labels}
        if unlike := sorted(given.keys() ^ set(labels)):
            known = "has no weight" if unlike[0] in labels else "is not a label of the training rows"
            raise ConfigError(
                f"task.class_weights: {unlike[0]!r} {known}", hint=f"The labels are: {', '.join(labels[:30])}."
            )
        task = type(self)(self.options.model_copy(update={"class_weights": {label: given[label] for label in labels}}))
        task._weights = [given[label] for label in labels]
        return task

    def planned(self) -> Self:
        return type(self)(self.options.model_copy(update={"class_weights": None}))

    def usual_metrics(self) -> list[Metric]:
        averages = [kind(average) for kind in (Precision, Recall, F1) for average in ("macro", "weighted")]
        return [Accuracy(), *averages, LogLoss()]

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        counts = Counter(references)
        most = max(sorted(counts), key=counts.__getitem__)
        shares = [counts[number] / len(references) for number in range(len(labels))]
        return [ClassPrediction(most, shares, labels)] * len(references)

    def tells_apart(self, evaluation: Evaluation) -> bool:
        from pefttools.tasks.labels.classes import above_chance

        return above_chance([one.answer for one in evaluation.predictions], evaluation.references)

    def class_report(self, evaluation: Evaluation, labels: Sequence[str]) -> ClassReport:
        from pefttools.tasks.labels.classes import class_report

        references = [labels[number] for number in evaluation.references]
        return class_report(evaluation.answers(), references, labels)

    def labels(self, train: Table) -> list[str]:
        return label_names(train, self.options.labels)

    @abstractmethod
    def check_input(self, table: Table, index: int, row: Row, *, labelled: bool) -> None:
        """Refuse a row whose inputs are missing or invalid.

        Args:
            table: the rows.
            index: index of the row.
            row: the row itself.
            labelled: whether the row has a label; if not, it is to be predicted.

        Raises:
            DataError: names file, row and column.
        """

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        known = {label_text(label) or label for label in labels}
        for index, row in enumerate(table.rows):
            self.check_input(table, index, row, labelled=labelled)
            if labelled:
                check_label(table, index, row["label"], known)

    def strata(self, row: Row) -> Hashable | None:
        try:
            return label_text(row["label"])
        except DataError:
            return str(row["label"])  # refused by `check`, which names the row

    def data_notes(self, tables: Mapping[str, Table], labels: Sequence[str]) -> list[str]:
        return label_notes(tables, labels)

    def is_known(self, table: Table, index: int, labels: Collection[str]) -> bool:
        return read_label(table, index, table.rows[index]["label"]) in labels

    def target(self, table: Table, index: int, labels: Sequence[str]) -> int:
        return numbers_of(tuple(labels))[label_text(table.rows[index]["label"]) or ""]

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"labels": 0}

    def loss_options(self) -> list[str]:
        given = {
            "class_weights": self.options.class_weights is not None,
            "label_smoothing": self.options.label_smoothing,
            "among": bool(self.options.among),
        }
        return [name for name, value in given.items() if value]

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._told_apart(logits, labels).log_softmax(-1), labels

    def _told_apart(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits in float32, those of labels that a row's own is not told apart from at minus infinity."""
        import torch

        if not self.options.among:
            return logits.float()
        if self._apart is None:
            raise ConfigError(
                "task.among: the groups are worked out from a recipe's labels, and there is no recipe",
                hint="In a training loop of your own, mask the logits yourself.",
            )
        table = torch.tensor(self._apart, device=logits.device)
        return logits.float().masked_fill(~table[labels.clamp(min=-1)], float("-inf"))

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        weights = None
        if self.options.class_weights is not None:
            if self._weights is None:
                raise ConfigError(
                    "task.class_weights: they are worked out from a recipe's training rows, and there is no recipe",
                    hint="In a training loop of your own, weight the loss of the logits yourself.",
                )
            weights = torch.tensor(self._weights, device=logits.device)
        logits = self._told_apart(logits, labels)
        total = cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.options.label_smoothing)
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def trial_answers(self, labels: Sequence[str]) -> Sequence[int]:
        return range(len(labels))

    def reference(self, example: Example, labels: Sequence[str]) -> int:
        return int(example["labels"])

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> ClassPrediction:
        if (allowed := self.allowed_answers(labels)) is not None:
            import torch

            logits = logits.masked_fill(~torch.tensor(allowed), float("-inf"))
        probabilities: list[float] = logits.softmax(-1).tolist()
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return ClassPrediction(best, probabilities, labels)
