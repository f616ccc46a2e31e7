"""Extractive question answering: the piece of a context that answers a question."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import Field, model_validator

from pefttools.bases import Base
from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.answers import (
    AnswerableF1,
    AnswerExactMatch,
    AnswerF1,
    UnanswerableAccuracy,
    best_f1,
    has_answer,
)
from pefttools.metrics.losses import TokenLoss
from pefttools.tasks.parts import Parts
from pefttools.tasks.task import Batch, Example, Prediction, Role, TextTaskConfig
from pefttools.tasks.text.answer_rows import answers_of
from pefttools.tasks.text.answers import Candidate, SpanPrediction
from pefttools.tasks.text.question_windows import Question, encode_questions, window_notes
from pefttools.tasks.text.spans import Spans, best_margin, best_spans, merged
from pefttools.tasks.text.text_head import TextStatesTask
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    import torch
    from torch import nn

_THRESHOLD = "threshold"


class QuestionAnsweringConfig(TextTaskConfig):
    """Options of question answering."""

    max_length: int = Field(
        384,
        ge=16,
        description="tokens of a window: the question and a part of the context; longer contexts are read in several",
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="tokens of the context that neighbouring windows share; by default a third of max_length",
    )
    head: Literal["auto", "tokens", "model"] = Field(
        "auto", description="tokens, auto: one linear layer on each token's state; model: the model's own head"
    )
    max_answer_length: int = Field(30, ge=1, description="longest answer that is given, in tokens")
    n_best: int = Field(20, ge=1, description="number of answers kept per row, for --scores and their probabilities")
    threshold: float | None = Field(
        None,
        description="lead of 'no answer' over the best answer above which none is given; by default chosen on "
        "validation if it has questions without an answer, else every question is answered",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stride is not None and self.stride >= self.max_length:
            raise ValueError(f"stride={self.stride} must be less than max_length={self.max_length}")
        return self

    @property
    def shared(self) -> int:
        """Tokens that neighbouring windows share."""
        return self.max_length // 3 if self.stride is None else self.stride


class QuestionAnswering(TextStatesTask[QuestionAnsweringConfig]):
    """A piece of a context; columns `context`, `question`, and `answers` (texts and places) or `answer` (a text).

    A context that is longer than a window is read in several, which overlap. Each window is trained on its own: to find
    the answer in it, or to say that there is none. A row's answer is the best of all its windows.
    """

    name = "question-answering"
    summary = "the piece of a context that answers a question"
    config = QuestionAnsweringConfig
    roles = {  # noqa: RUF012
        "question": Role("text"),
        "context": Role("text"),
        "answers": Role("answers", required=False, is_input=False),
        "answer": Role("text", required=False, is_input=False),
    }
    second_text = "context"
    auto_class = "AutoModelForQuestionAnswering"
    # PEFT's class for QUESTION_ANS takes token types but passes none on: question and context would look alike.
    peft_task_type = "FEATURE_EXTRACTION"
    per_token = True
    has_divergence = True
    has_outcomes = True
    ranks = True

    named_metrics = {  # noqa: RUF012
        "f1": AnswerF1,
        "exact_match": AnswerExactMatch,
        "answerable_f1": AnswerableF1,
        "unanswerable_accuracy": UnanswerableAccuracy,
    }

    @classmethod
    def misspellable(cls) -> frozenset[str]:
        return frozenset({"question"})  # an answer is a piece of the context

    def usual_metrics(self) -> list[Metric]:
        return [AnswerF1(), AnswerExactMatch(), TokenLoss()]

    def head_kind(self, base: Base) -> str:
        return "model" if self.options.head == "model" else "tokens"

    def has_pairs(self, roles: Collection[str]) -> bool:
        return True

    def outputs(self, labels: Sequence[str]) -> int:
        return 2

    def labels(self, train: Table) -> list[str]:
        return []

    def why_not_merged(self, kind: str, format: str) -> str | None:
        return "nothing in transformers reads long contexts in windows and gives the best answer of all"

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            check_text(table, index, "question", row)
            check_text(table, index, "context", row)
            if labelled:
                answers_of(table, index)

    def data_notes(self, tables: Mapping[str, Table], labels: Sequence[str]) -> list[str]:
        notes = []
        for split, table in tables.items():
            found = [answers_of(table, index) for index in range(len(table))]
            if silent := sum(not one.texts for one in found):
                notes.append(f"{split}: {silent:,} of {len(table):,} questions have no answer")
            if absent := sum(one.start is None for one in found):
                notes.append(f"{split}: {absent:,} answers are not in the context that was looked up")
            if several := sum(one.elsewhere for one in found):
                notes.append(f"{split}: {several:,} answers occur several times in their context: the first is taken")
        return notes

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        learned = labelled and bool({"answers", "answer"} & table.columns.keys())
        return encode_questions(table, tokenizer, self.options.max_length, self.options.shared, learned)

    def example_notes(self, examples: Sequence[Example]) -> list[str]:
        return window_notes(examples, self.options.max_length, self.options.shared, self.options.max_answer_length)

    def parts(self, example: Example) -> list[Example]:
        """The windows of a row: tokens, and where in them the context is."""
        return Question(example).windows(self.options.max_length, self.options.shared)

    def training_set(self, examples: Sequence[Example]) -> Parts:
        return self.in_parts(examples)

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        ones = [1] * length
        return {"input_ids": ones, "attention_mask": ones, "span_mask": [True] * length, "labels": [0, 0]}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """Windows as tensors ``[windows, tokens]``; ``span_mask``: where an answer may begin and end."""
        import torch

        if any("count" not in one for one in examples):
            raise ConfigError(f"the task {self.name!r} makes batches of windows", hint="Take the rows' parts.")
        names = [name for name in ("input_ids", "token_type_ids") if name in examples[0]]
        inputs = [{name: one[name] for name in names} for one in examples]
        batch: Batch = dict(tokenizer.pad(inputs, padding_side="right", return_tensors="pt"))
        batch["span_mask"] = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for index, one in enumerate(examples):
            batch["span_mask"][index, one["before"] : one["before"] + one["count"]] = True
            batch["span_mask"][index, one["none"]] = True
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([one["labels"] for one in examples])
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Scores of each token as the first and as the last of the answer, ``[windows, tokens, 2]``."""
        return super().logits(
            transformer, head, {name: tensor for name, tensor in batch.items() if name != "span_mask"}
        )

    def training_logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        from pefttools.tasks.text.padding import padded_on_the_right

        logits = self.logits(transformer, head, batch)
        mask = padded_on_the_right(batch).get("span_mask")
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], float("-inf"))
        return logits

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.float().transpose(1, 2).flatten(0, 1).log_softmax(-1), labels.flatten()

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Cross-entropy of starts and ends; labels are ``[windows, 2]``, places of the first and the last token."""
        from torch.nn.functional import cross_entropy

        total = cross_entropy(logits.float().transpose(1, 2).flatten(0, 1), labels.flatten(), reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def reference(self, example: Example, labels: Sequence[str]) -> list[str]:
        return list(example["answers"])

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> SpanPrediction:
        options = self.options
        found, none, loss, tokens, at = [], math.inf, 0.0, 0, 0
        for window in self.parts(example):
            scores = logits[at : at + len(window["input_ids"])]
            at += len(scores)
            context = scores[window["before"] : window["before"] + window["count"]]
            starts, ends = context.unbind(-1)
            found.append((window["first"], best_spans(starts, ends, options.max_answer_length, options.n_best)))
            none = min(none, float(scores[window["none"]].sum()))
            if "labels" in window:
                loss += self._window_loss(scores, window)
                tokens += 2
        prediction = _prediction(example, merged(found, options.n_best), none)
        return self._chosen(replace(prediction, loss=loss, tokens=tokens))

    def _window_loss(self, scores: torch.Tensor, window: Example) -> float:
        """As in training."""
        import torch

        mask = torch.zeros(len(scores), dtype=torch.bool)
        mask[window["before"] : window["before"] + window["count"]] = True
        mask[window["none"]] = True
        masked = scores.masked_fill(~mask[:, None], float("-inf"))
        return float(self.loss(masked[None], torch.tensor([window["labels"]]), 1))

    def _chosen(self, prediction: SpanPrediction) -> SpanPrediction:
        """A prediction with its best answer, or with none if that leads by more than the threshold."""
        limit = self.options.threshold
        if limit is None:
            limit = (self.calibration or {}).get(_THRESHOLD, math.inf)
        answered = prediction.candidates and prediction.margin <= limit
        return replace(prediction, answer=prediction.candidates[0].text if answered else "")

    def finish(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        return [self._chosen(one) for one in cast("Sequence[SpanPrediction]", predictions)]

    def calibrate(self, predictions: Sequence[Prediction], references: Sequence[Any]) -> dict[str, Any] | None:
        if self.options.threshold is not None or all(map(has_answer, references)):
            return None
        given = cast("Sequence[SpanPrediction]", predictions)
        pairs = list(zip(given, references, strict=True))
        answered = [best_f1(one.candidates[0].text if one.candidates else "", truth) for one, truth in pairs]
        silent = [best_f1("", truth) for _, truth in pairs]
        return {_THRESHOLD: best_margin([one.margin for one in given], answered, silent)}

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction] | None:
        """Never an answer; None if that is never right."""
        if all(map(has_answer, references)):
            return None
        return [SpanPrediction("", loss=math.nan, tokens=2)] * len(references)


def _prediction(example: Example, spans: Spans, none: float) -> SpanPrediction:
    """The best spans of a row as texts, along with "no answer".

    Args:
        example: the row.
        spans: their scores, the best first.
        none: score of "no answer".
    """
    places: dict[tuple[int, int], float] = {}
    for place, score in spans.items():
        places.setdefault(Question(example).characters(*place), score)
    ranked = [(place, score) for place, score in places.items() if place[0] < place[1]]  # not only white space
    if not ranked or not math.isfinite(none):
        return SpanPrediction("", margin=math.inf)  # the model gives no finite numbers
    best = max(ranked[0][1], none)
    shares, silent = [math.exp(score - best) for _, score in ranked], math.exp(none - best)
    whole = silent + math.fsum(shares)
    candidates = [
        Candidate(example["context"][a:b], a, b, share / whole)
        for ((a, b), _), share in zip(ranked, shares, strict=True)
    ]
    return SpanPrediction("", candidates, silent / whole, none - ranked[0][1])
