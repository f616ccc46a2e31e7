"""Multiple choice: which of a row's own choices is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from pefttools.bases import Base
from pefttools.data import Table
from pefttools.data.mapped import MappedItems
from pefttools.metrics import Metric
from pefttools.metrics.classes import Accuracy
from pefttools.metrics.losses import LogLoss
from pefttools.tasks.task import Batch, Example, Prediction, Role
from pefttools.tasks.text.choice_rows import LabelKind, choices_of, right_choice
from pefttools.tasks.text.text_head import TextHeadConfig, TextStatesTask, pooling_of
from pefttools.tasks.text.text_pairs import between
from pefttools.tasks.text.texts import check_text, uncut

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.tasks.model import Model

#: number of choices that memory is planned for, if nothing says how many there are
_USUAL_CHOICES = 4


class MultipleChoiceConfig(TextHeadConfig):
    """Options of multiple choice."""

    label: LabelKind | None = Field(
        None,
        description="what the column label holds: the right choice's number from 0, its letter from A, or its text; by "
        "default whatever identifies exactly one choice",
    )
    separator: str = Field("|", min_length=1, description="separator of the choices in a text cell; lists need none")
    choices: int | None = Field(
        None,
        ge=2,
        description="choices per row that memory is planned for; by default the maximum in the training rows, or 4",
    )


@dataclass(frozen=True)
class ChoicePrediction(Prediction):
    """The choice of one row.

    Attributes:
        answer: its number, from 0.
        probabilities: of each choice.
        choices: their texts.
    """

    answer: int
    probabilities: Sequence[float]
    choices: Sequence[str]

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        found = {
            "prediction": self.choices[self.answer],
            "choice": self.answer,
            "score": round(self.probabilities[self.answer], 8),
        }
        if all_scores:
            found["scores"] = [round(one, 8) for one in self.probabilities]
        return found

    def shown(self, answer: int) -> str:
        return self.choices[answer]

    def entry(self, reference: int) -> dict[str, Any]:
        return {**super().entry(reference), "correct": self.answer == reference}


class MultipleChoice(TextStatesTask[MultipleChoiceConfig]):
    """One of the row's choices; columns `text`, optionally `question`, `choices` and `label`.

    The model reads `text` with each choice, after the question if there is one, and a head with one output scores
    it; a row's scores go through one softmax.
    """

    name = "multiple-choice"
    summary = "which of a row's choices is right"
    config = MultipleChoiceConfig
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "question": Role("text", required=False),
        "choices": Role("choices"),
        "label": Role("label", is_input=False),
    }
    auto_class = "AutoModelForSequenceClassification"
    has_divergence = True
    has_outcomes = True
    peft_task_type = "SEQ_CLS"
    ranks = True
    why_not_attacked = "its model reads a row's choices one at a time, and the loss is of all of them"

    named_metrics = {"accuracy": Accuracy}  # noqa: RUF012

    def usual_metrics(self) -> list[Metric]:
        return [Accuracy(), LogLoss()]

    def head_kind(self, base: Base) -> str:
        return pooling_of(base) if self.options.head == "auto" else self.options.head

    def has_pairs(self, roles: Collection[str]) -> bool:
        return True

    def outputs(self, labels: Sequence[str]) -> int:
        return 1

    def labels(self, train: Table) -> list[str]:
        return []

    def why_not_merged(self, kind: str, format: str) -> str | None:
        return "nothing in transformers asks such a model for one score per choice"

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        if self.options.choices is not None:
            return self
        most = max(len(choices_of(train, index, self.options.separator)) for index in range(len(train)))
        return type(self)(self.options.model_copy(update={"choices": most}))

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            check_text(table, index, "text", row)
            if "question" in table.columns:
                check_text(table, index, "question", row)
            choices = choices_of(table, index, self.options.separator)
            if labelled:
                right_choice(table, index, choices, self.options.label)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        rows = [choices_of(table, index, self.options.separator) for index in range(len(table))]
        texts, seconds, join = [], [], between(tokenizer)
        for row, choices in zip(table.rows, rows, strict=True):
            question = f"{row['question']} " if "question" in table.columns else ""
            texts += [f"{row['text']}{join}"] * len(choices)
            seconds += [f"{question}{choice}" for choice in choices]
        limit = self.options.max_length
        encoded = tokenizer(texts, seconds, truncation=True, max_length=limit)
        names = [name for name in encoded if name != "attention_mask"]
        examples: list[Example] = []
        learned = labelled and "label" in table.columns
        end = 0
        for index, choices in enumerate(rows):
            start, end = end, end + len(choices)
            example: Example = {name: encoded[name][start:end] for name in names}
            lengths = [len(ids) for ids in example["input_ids"]]
            whole = (
                uncut(length, limit, tokenizer, texts[place], seconds[place])
                for place, length in enumerate(lengths, start)
            )
            example |= {"choices": choices, "size": max(lengths), "length": max(whole)}
            if learned:
                example["labels"] = right_choice(table, index, choices, self.options.label)
            examples.append(example)
        return examples

    def size(self, example: Example) -> int:
        return int(example["size"]) if "size" in example else len(example["input_ids"])

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        return examples.numbers("size") if isinstance(examples, MappedItems) else super().sizes(examples)

    def tokens(self, examples: Sequence[Example]) -> int:
        return sum(self.in_parts(examples).sizes)

    def parts(self, example: Example) -> list[Example]:
        """The choices, each as the model reads it: lists of tokens."""
        names = [name for name in ("input_ids", "token_type_ids") if name in example]
        return [{name: example[name][number] for name in names} for number in range(len(example["input_ids"]))]

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        choices = self.options.choices or _USUAL_CHOICES
        ones = [[1] * length] * choices
        return {"input_ids": ones, "attention_mask": ones, "choice_mask": [True] * choices, "labels": 0}

    def planned_parts(self, model: Model, sizes: Sequence[int]) -> Batch:
        batch = self.planned_batch(model, sizes)
        return {name: batch[name][:, 0].clone() for name in ("input_ids", "attention_mask")}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """Parts as tensors ``[parts, tokens]``, or rows as tensors ``[rows, choices, tokens]``.

        Rows with fewer choices repeat their last one; ``choice_mask``, ``[rows, choices]``, says which count.
        """
        import torch

        rows = "size" in examples[0]
        parts = [part for one in examples for part in self.parts(one)] if rows else examples
        flat: Batch = dict(tokenizer.pad(list(parts), padding_side="right", return_tensors="pt"))
        if not rows:
            return flat
        counts = torch.tensor([len(one["input_ids"]) for one in examples])[:, None]
        numbers = torch.arange(int(counts.max()))
        places = counts.cumsum(0) - counts + numbers.minimum(counts - 1)
        batch: Batch = {name: tensor[places] for name, tensor in flat.items()}
        batch["choice_mask"] = numbers < counts
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Scores ``[rows, choices]``, minus infinity where a row has fewer choices; for parts ``[rows, 1]``."""
        shape = batch["input_ids"].shape
        if len(shape) == 2:
            return super().logits(transformer, head, batch)
        flat = {name: tensor.flatten(0, 1) for name, tensor in batch.items() if name != "choice_mask"}
        scores = super().logits(transformer, head, flat).view(shape[:2])
        return scores.masked_fill(~batch["choice_mask"], float("-inf")) if "choice_mask" in batch else scores

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.float().log_softmax(-1), labels

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        total = cross_entropy(logits.float(), labels, reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def reference(self, example: Example, labels: Sequence[str]) -> int:
        return int(example["labels"])

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> ChoicePrediction:
        probabilities: list[float] = logits.softmax(-1).tolist()
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return ChoicePrediction(best, probabilities, example["choices"])

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        """Always the position that is most often the right one."""
        counts = Counter(references)
        most = max(sorted(counts), key=counts.__getitem__)
        shares = [counts[number] / len(references) for number in range(max(counts) + 1)]
        return [ChoicePrediction(most, shares, [f"choice {number}" for number in range(len(shares))])] * len(references)
