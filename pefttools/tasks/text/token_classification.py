"""Classification of the words of a sentence: named entities, parts of speech and the like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pefttools.bases import Base
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.metrics import Metric
from pefttools.metrics.losses import TokenLoss
from pefttools.metrics.tagging import EntityF1, EntityPrecision, EntityRecall, TagAccuracy
from pefttools.tasks.labels.class_labels import declared_labels
from pefttools.tasks.task import IGNORE, Batch, Evaluation, Example, Prediction, Role, TextTaskConfig
from pefttools.tasks.text.tag_rows import check_tags, check_words, tags_of, words_of
from pefttools.tasks.text.text_head import TextStatesTask

if TYPE_CHECKING:
    import torch

    from pefttools.tasks.labels.classes import ClassReport

#: tag of a word outside of all entities
OUTSIDE = "O"


class TokenClassificationConfig(TextTaskConfig):
    """Options of token classification."""

    head: Literal["auto", "tokens", "model"] = Field(
        "auto", description="tokens, auto: one linear layer on each word's state; model: the model's own head"
    )
    labels: list[str] = Field(
        default_factory=list, description="all tags, in the order of the outputs; empty: those of the training rows"
    )
    tags: Literal["entities", "words"] = Field(
        "entities",
        description="entities: tags are O, B-TYPE and I-TYPE (also E- and S-), and entities are scored whole; words: "
        "each word has a tag of its own, such as its part of speech, and words are scored",
    )


@dataclass(frozen=True)
class TagPrediction(Prediction):
    """The tags of one sentence.

    Attributes:
        answer: a tag per word. A word beyond the longest input that the task takes gets ``O``, or the first label.
        probabilities: of each word's tag; 0 if the model did not see the word.
        loss: of the words that the model saw and whose tags are known, summed; in nats.
        tokens: their number.
    """

    answer: list[str]
    probabilities: Sequence[float]
    loss: float = 0.0
    tokens: int = 0

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {"prediction": self.answer}
        if all_scores:
            found["scores"] = [round(one, 8) for one in self.probabilities]
        return found


class TokenClassification(TextStatesTask[TokenClassificationConfig]):
    """One tag per word; columns `words` (a list, or a text separated by spaces) and `tags` (the same).

    A word's tag is read from its first token; the loss is computed on those tokens.
    """

    name = "token-classification"
    summary = "one tag per word: named entities, parts of speech"
    config = TokenClassificationConfig
    roles = {"words": Role("words"), "tags": Role("tags", is_input=False)}  # noqa: RUF012
    auto_class = "AutoModelForTokenClassification"
    peft_task_type = "TOKEN_CLS"
    per_token = True
    has_divergence = True
    has_outcomes = True
    has_labels = True

    named_metrics = {"entity_f1": EntityF1, "accuracy": TagAccuracy}  # noqa: RUF012

    def usual_metrics(self) -> list[Metric]:
        entities: list[Metric] = [EntityF1(), EntityPrecision(), EntityRecall()]
        return [*(entities if self.options.tags == "entities" else ()), TagAccuracy(), TokenLoss()]

    def head_kind(self, base: Base) -> str:
        return "model" if self.options.head == "model" else "tokens"

    def labels(self, train: Table) -> list[str]:
        found = {tag for index in range(len(train)) for tag in tags_of(train, index)}
        names = declared_labels(self.options.labels) if self.options.labels else sorted(found - {OUTSIDE})
        if OUTSIDE in found and OUTSIDE not in names:
            names.insert(0, OUTSIDE)
        if len(names) < 2:
            raise DataError(f"{train.source}: column {train.columns['tags']!r} has {len(names)} tag; two are needed")
        if self.options.tags == "entities" and (odd := [tag for tag in names if not _of_entity(tag)]):
            raise ConfigError(
                f"task.tags=entities: {odd[0]!r} is not a tag of entities (O, B-TYPE, I-TYPE, E-TYPE, S-TYPE)",
                hint="For parts of speech and other tags of single words, set task.tags=words.",
            )
        return names

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        known = set(labels)
        for index in range(len(table)):
            words = check_words(table, index)
            if labelled:
                check_tags(table, index, len(words), known)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        numbers = {label: number for number, label in enumerate(labels)}
        sentences = [words_of(table, index) for index in range(len(table))]
        encoded = tokenizer([" ".join(words) for words in sentences], return_offsets_mapping=True, verbose=False)
        learned = labelled and "tags" in table.columns
        examples: list[Example] = []
        for index, words in enumerate(sentences):
            ids, length = encoded["input_ids"][index], len(encoded["input_ids"][index])
            kept = _kept(length, self.options.max_length, encoded["offset_mapping"][index])
            ids = [ids[place] for place in kept]
            starts = _first_tokens([encoded["offset_mapping"][index][place] for place in kept], words)
            example: Example = {"input_ids": ids, "attention_mask": [1] * len(ids), "length": length, "starts": starts}
            if learned:
                example["reference"] = [numbers[tag] for tag in tags_of(table, index)]
                example["labels"] = [IGNORE] * len(ids)
                for start, number in zip(starts, example["reference"], strict=True):
                    if start >= 0:
                        example["labels"][start] = number
            examples.append(example)
        return examples

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": [0] * length}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        import torch

        inputs = [{name: one[name] for name in ("input_ids", "attention_mask")} for one in examples]
        batch: Batch = dict(tokenizer.pad(inputs, padding_side="right", return_tensors="pt"))
        if "labels" in examples[0]:
            batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
            for index, example in enumerate(examples):
                batch["labels"][index, : len(example["labels"])] = torch.tensor(example["labels"])
        return batch

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from pefttools.tasks.language.language_head import outcomes

        return outcomes(logits, labels)

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        total = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum", ignore_index=IGNORE)
        return total / ((labels != IGNORE).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    def trial_answers(self, labels: Sequence[str]) -> Sequence[list[str]]:
        return [[labels[0], labels[-1]], [labels[-1]]]

    def reference(self, example: Example, labels: Sequence[str]) -> list[str]:
        return [labels[number] for number in example["reference"]]

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> TagPrediction:
        starts = example["starts"]
        seen = [start for start in starts if start >= 0]
        scores = logits[seen].log_softmax(-1)
        best = iter(zip(scores.argmax(-1).tolist(), scores.exp().amax(-1).tolist(), strict=True))
        unseen = labels.index(OUTSIDE) if OUTSIDE in labels else 0
        found = [next(best) if start >= 0 else (unseen, 0.0) for start in starts]
        answer, probabilities = [labels[number] for number, _ in found], [probability for _, probability in found]
        if "reference" not in example:
            return TagPrediction(answer, probabilities)
        truth = [number for number, start in zip(example["reference"], starts, strict=True) if start >= 0]
        loss = -sum(float(row[number]) for row, number in zip(scores, truth, strict=True))
        return TagPrediction(answer, probabilities, loss, len(truth))

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        counts = Counter(tag for tags in references for tag in tags)
        most, total = max(sorted(counts), key=counts.__getitem__), counts.total()
        found: list[Prediction] = []
        for tags in references:
            loss = -math.fsum(math.log(counts[tag] / total) for tag in tags)
            found.append(TagPrediction([most] * len(tags), [counts[most] / total] * len(tags), loss, len(tags)))
        return found

    def class_report(self, evaluation: Evaluation, labels: Sequence[str]) -> ClassReport:
        from pefttools.tasks.labels.classes import class_report

        given = [tag for one in evaluation.predictions for tag in one.answer]
        return class_report(given, [tag for tags in evaluation.references for tag in tags], labels)


def _of_entity(tag: str) -> bool:
    mark, dash, kind = tag.partition("-")
    return tag == OUTSIDE or (mark in ("B", "I", "E", "S") and bool(dash and kind))


def _kept(length: int, limit: int, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Places of the tokens that are kept of a sentence: the last are cut, except those that the tokenizer ends with."""
    if length <= limit:
        return list(range(length))
    # Special tokens stand for no characters.
    ending = next((count for count, (begin, end) in enumerate(reversed(offsets)) if begin != end), 0)
    return [*range(limit - ending), *range(length - ending, length)]


def _first_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> list[int]:
    """Place of each word's first token; -1 if it has none.

    Args:
        offsets: first character and the one after the last of each token, in the words joined by spaces.
        words: of the sentence.
    """
    found = [-1] * len(words)
    ends = []
    at = 0
    for one in words:
        at += len(one)
        ends.append(at)
        at += 1
    word = 0
    for place, (begin, end) in enumerate(offsets):
        if begin == end:
            continue
        # Some tokenizers put the space before a word in its first token: a token belongs to its last character's word.
        while word < len(words) - 1 and end - 1 >= ends[word]:
            word += 1
        if found[word] < 0 and end - 1 < ends[word]:
            found[word] = place
    return found
