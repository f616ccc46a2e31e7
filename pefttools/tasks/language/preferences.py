"""Preferences: of two answers to a prompt it is known which one is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from pefttools.data import Table
from pefttools.data.columns import how_to_map
from pefttools.data.mapped import MappedItems
from pefttools.errors import ConfigError, DataError
from pefttools.metrics import Metric
from pefttools.metrics.choices import split
from pefttools.metrics.preferences import Margin, Preferred, PreferredPerToken
from pefttools.tasks.language.causal_lm import CausalLM
from pefttools.tasks.language.causal_lm_config import CausalLMConfig
from pefttools.tasks.language.chat_tokens import encoded
from pefttools.tasks.language.chat_writer import ChatWriter
from pefttools.tasks.language.chats import check_messages
from pefttools.tasks.language.generating_task import GeneratingTask, part_of
from pefttools.tasks.language.generation import TextPrediction
from pefttools.tasks.task import LABELLED, Batch, Example, Prediction, Progress, Role
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.tasks.model import Model

#: what the tensors of the rejected answers are called in a batch: as those of the chosen ones, after this
REJECTED = "rejected_"


class PreferencesConfig(CausalLMConfig):
    """Options of learning from preferences: those of causal language modelling, except for the following."""

    generate: bool = Field(False, description="generate answers at evaluation, which are compared with the chosen ones")
    train_on: Literal["last"] = Field("last", description="the chosen and the rejected answer are what is learned")
    packing: Literal[False] = Field(False, description="chosen and rejected answers are read in rows of their own")


@dataclass(frozen=True)
class PreferencePrediction(TextPrediction):
    """The answer to one prompt, and how likely the rejected one is.

    Attributes:
        rejected_loss: as `loss`, of the rejected answer.
        rejected_tokens: as `tokens`, of the rejected answer.
    """

    rejected_loss: float = 0.0
    rejected_tokens: int = 0

    @property
    def margin(self) -> float:
        """Log-probability of the chosen answer minus that of the rejected one, in nats."""
        return self.rejected_loss - self.loss

    def shown(self, answer: str | None) -> Any:
        return ("chosen" if self.margin > 0 else "rejected") if answer is None else answer

    def entry(self, reference: str) -> dict[str, Any]:
        if self.answer is None:
            shown = {"prediction": self.shown(None), "reference": "chosen", "correct": self.margin > 0}
        else:
            shown = super().entry(reference)
        return {**shown, "margin": self.margin}


class Preferences(CausalLM):
    """Columns `prompt` or `messages` (a chat to be answered), `chosen` and `rejected`, the better and the worse answer.

    Without an objective the chosen answers are learned, and the rejected ones only measured. Objectives that rank
    answers learn from both. What is trained writes texts, as a model that was trained on completions does.
    """

    name = "preferences"
    summary = "of two answers to a prompt, or to a chat, the better one; by an objective that ranks answers"
    config = PreferencesConfig
    roles = {  # noqa: RUF012
        "prompt": Role("text", required=False),
        "chosen": Role("text", is_input=False),
        "rejected": Role("text", is_input=False),
        "messages": Role("chat", required=False),
        "tools": Role("tools", required=False),
    }
    named_metrics = {**GeneratingTask.named_metrics, "preferred_per_token": PreferredPerToken}  # noqa: RUF012
    has_preferences = True
    learned_by = ("margin", "loss")

    @classmethod
    def upgraded(cls, options: dict[str, Any]) -> dict[str, Any]:
        return options

    def trial_answers(self, labels: Sequence[str]) -> Sequence[str]:
        of_answers = [one for one in self.options.metrics if split(one)[0] != PreferredPerToken.name]
        return super().trial_answers(labels) if of_answers else ()

    def usual_metrics(self) -> list[Metric]:
        return [Preferred(), Margin(), *super().usual_metrics()]

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        if not {"prompt", "messages"} & table.columns.keys():
            raise DataError(
                f"{table.source}: the task {self.name} needs the column prompt, or messages",
                hint=f"Found: {', '.join(sorted(table.columns)) or 'none of them'}. {how_to_map('prompt')}",
            )
        for index, row in enumerate(table.rows):
            if row.get("messages") is None:
                check_text(table, index, "prompt", row)
            else:
                check_messages(table, index, row["messages"], answered=False)
            if labelled:
                self._check_answers(table, index, row)

    def _check_answers(self, table: Table, index: int, row: Mapping[str, Any]) -> None:
        if row.get("messages") and row["messages"][-1]["role"] == "assistant":
            raise table.error(
                index, "messages", "the chat ends with an answer; those to learn from are in chosen and rejected",
                hint="Leave the last message out.",
            )  # fmt: skip
        for role in ("chosen", "rejected"):
            check_text(table, index, role, row)
        if row["chosen"].strip() == row["rejected"].strip():
            raise table.error(index, "rejected", "both answers are the same", hint="Correct the row, or drop it.")
        self.check_allowed(table, index, "chosen", row["chosen"])

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        if not (labelled and "chosen" in table.columns):
            return super().encode(table, tokenizer, labels, labelled=False)
        writer = ChatWriter(tokenizer, self.options)
        return [self._pair(table, index, row, writer) for index, row in enumerate(table.rows)]

    def _pair(self, table: Table, index: int, row: Mapping[str, Any], writer: ChatWriter) -> Example:
        """A row's example: that of the chosen answer, with the rejected one after the same prompt."""
        try:
            chosen, rejected = (encoded(_answered(row, role), writer, answered=True) for role in ("chosen", "rejected"))
        except ConfigError as error:
            raise table.error(
                index, "messages" if row.get("messages") else "prompt", error.message, hint=error.hint
            ) from error
        # What leaves room for the longer answer is also cut for the shorter one.
        prompt = min(chosen["prompt_ids"], rejected["prompt_ids"], key=len)
        for one in (chosen, rejected):
            cut = len(one["prompt_ids"]) - len(prompt)
            one["input_ids"] = [*prompt, *one["input_ids"][len(one["prompt_ids"]) :]]
            one["labels"] = one["labels"][cut:]
        return {
            **chosen,
            "prompt_ids": prompt,
            "length": max(chosen["length"], rejected["length"]),
            "rejected_ids": rejected["input_ids"],
            "rejected_labels": rejected["labels"],
        }

    def size(self, example: Example) -> int:
        return max(len(example["input_ids"]), len(example.get("rejected_ids", ())))

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        if not isinstance(examples, MappedItems):
            return [self.size(example) for example in examples]
        found = examples.lengths("input_ids")
        if not len(examples) or "rejected_ids" not in examples[0]:
            return found
        return list(map(max, zip(found, examples.lengths("rejected_ids"), strict=True)))

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        chosen = super().planned_example(length, labels)
        return {**chosen, **{f"{REJECTED}{name}": value for name, value in chosen.items()}}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """Both answers of a batch are padded to the length of its longest one."""
        if "rejected_ids" not in examples[0]:
            return super().collate(examples, tokenizer)
        others = [{"input_ids": one["rejected_ids"], "labels": one["rejected_labels"]} for one in examples]
        both = super().collate([*examples, *others], tokenizer)
        count = len(examples)
        chosen = {name: tensor[:count] for name, tensor in both.items()}
        return {**chosen, **{f"{REJECTED}{name}": tensor[count:] for name, tensor in both.items()}}

    def training_batch(self, model: Model, examples: Sequence[Example]) -> Batch:
        from pefttools.tasks.language.language_head import places

        batch = super().training_batch(model, examples)
        if f"{REJECTED}labels" in batch:
            batch[f"{REJECTED}{LABELLED}"] = places(batch[f"{REJECTED}labels"])
        return batch

    def rejected(self, batch: Batch) -> tuple[Batch, torch.Tensor]:
        found = {name.removeprefix(REJECTED): one for name, one in batch.items() if name.startswith(REJECTED)}
        return found, found.pop("labels")

    def model_inputs(self, batch: Batch) -> Batch:
        read = super().model_inputs(batch)
        return {name: tensor for name, tensor in read.items() if not name.startswith(REJECTED)}

    def log_likelihoods(
        self, transformer: nn.Module, head: nn.Module | None, batch: Batch, labels: torch.Tensor
    ) -> torch.Tensor:
        from pefttools.tasks.language.language_head import labelled_rows, places
        from pefttools.tasks.language.likelihoods import log_probabilities

        states, language_head = self._before_head(transformer, batch)
        where = batch[LABELLED] if LABELLED in batch else places(labels)
        rows, wanted = labelled_rows(states, labels, where)
        each = log_probabilities(rows, wanted, language_head, self.options.loss_rows)
        return each.new_zeros(len(labels)).index_add(0, where // labels.shape[1], each)

    def predict(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[Prediction]:
        if not examples or "rejected_ids" not in examples[0]:
            return super().predict(model, examples, batch_size=batch_size, progress=progress)
        found = super().predict(model, examples, batch_size=batch_size, progress=part_of(progress, 0, 2))
        others = [
            {"input_ids": examples[index]["rejected_ids"], "labels": examples[index]["rejected_labels"]}
            for index in range(len(examples))
        ]
        worse = self.scored(model, others, batch_size, part_of(progress, 1, 2))
        return [
            PreferencePrediction(one.answer, one.loss, one.right, one.tokens, loss, tokens)
            for one, (loss, _, tokens) in zip(cast("list[TextPrediction]", found), worse, strict=True)
        ]


def _answered(row: Mapping[str, Any], role: str) -> dict[str, Any]:
    """A row of causal language modelling, with one of the answers."""
    if row.get("messages"):
        answer = {"role": "assistant", "content": row[role]}
        return {"messages": [*row["messages"], answer], "tools": row.get("tools")}
    return {"prompt": row["prompt"], "completion": row[role]}
