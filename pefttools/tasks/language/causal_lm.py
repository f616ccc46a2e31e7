"""Causal language modelling: learn completions of prompts, or the last answer of a chat."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakKeyDictionary

from pefttools.data import Table
from pefttools.data.columns import how_to_map
from pefttools.errors import ConfigError, DataError
from pefttools.methods import Target
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.language.allowed import constraint
from pefttools.tasks.language.causal_lm_config import CausalLMConfig
from pefttools.tasks.language.chat_tokens import encoded
from pefttools.tasks.language.chat_writer import ChatWriter
from pefttools.tasks.language.chats import check_messages, text_of
from pefttools.tasks.language.examples import drawn_examples
from pefttools.tasks.language.generating_task import GeneratingTask
from pefttools.tasks.language.generation import answer_text, end_tokens
from pefttools.tasks.language.plain_text import encoded_text, is_plain
from pefttools.tasks.task import IGNORE, LABELLED, Batch, Example, Progress, Role, TaskModel
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model


class CausalLM(GeneratingTask[CausalLMConfig]):
    """Columns `prompt` and `completion`, or `messages` (a list of role and content), or `text`.

    The loss is on the completion only; for a plain text it is on every token.
    """

    name = "causal-lm"
    summary = "completions of prompts, chats or plain texts; loss on the completion, or on the whole text"
    config = CausalLMConfig
    roles = {  # noqa: RUF012
        "prompt": Role("text", required=False),
        "completion": Role("text", required=False, is_input=False),
        "messages": Role("chat", required=False),
        "tools": Role("tools", required=False),
        "text": Role("text", required=False),
    }
    auto_class = "AutoModelForCausalLM"
    peft_task_type = "CAUSAL_LM"

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__(config)
        #: for each model that was checked: why its rows are padded, or None
        self._padded: WeakKeyDictionary[Model, str | None] = WeakKeyDictionary()

    @classmethod
    def misspellable(cls) -> frozenset[str]:
        return frozenset({"prompt"})  # of chats and plain texts what is read is learned too

    @classmethod
    def upgraded(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {"plain": "joined", **options}  # the only one before 0.2

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        if not self.options.shots:
            return self
        examples = drawn_examples(train, self.options.shots)
        return type(self)(self.options.model_copy(update={"shots": 0, "examples": examples}))

    def check_roles(self, given: Collection[str], trained: Collection[str]) -> None:
        return  # a prompt is a chat of one message

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        columns = table.columns.keys()
        if is_plain(columns):
            self._check_plain(table, labelled)
            return
        if "messages" not in columns and not ({"prompt", "completion"} if labelled else {"prompt"}) <= columns:
            raise DataError(
                f"{table.source}: the task causal-lm needs the columns prompt and completion, or messages, or text",
                hint=f"Found: {', '.join(sorted(columns)) or 'none of them'}. {how_to_map('prompt')}",
            )
        for index, row in enumerate(table.rows):
            if row.get("messages") is not None:
                check_messages(table, index, row["messages"], answered=labelled)
                if labelled:
                    self.check_allowed(table, index, "messages", text_of(row["messages"][-1].get("content")))
                continue
            for role in ("prompt", "completion") if labelled else ("prompt",):
                check_text(table, index, role, row)
            if labelled:
                self.check_allowed(table, index, "completion", row["completion"])

    def _check_plain(self, table: Table, labelled: bool) -> None:
        if labelled and self.options.generate:
            raise DataError(
                f"{table.source}: plain texts have no prompts to answer at evaluation",
                hint="Set task.generate=false; perplexity, loss and token accuracy are still measured.",
            )
        for index, row in enumerate(table.rows):
            check_text(table, index, "text", row)

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        from transformers import AutoModelForCausalLM

        from pefttools.bases.loading import load_tokenizer, load_transformer

        tokenizer = load_tokenizer(base)
        if self.options.template == "chat" and tokenizer.chat_template is None:
            raise ConfigError(f"task.template=chat, but the tokenizer of {base.id!r} has no chat template")
        transformer, missing = load_transformer(AutoModelForCausalLM, base, variant)
        if missing:
            raise ConfigError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(missing[:3])}")
        return TaskModel(transformer, None, "model", Target(self.name, self.peft_task_type), tokenizer)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        if is_plain(table.columns):
            limit = self.options.max_length
            return [encoded_text(text, tokenizer, limit=limit, learned=labelled) for text in table.column("text")]
        writer = ChatWriter(tokenizer, self.options)
        answered = labelled and ("completion" in table.columns or "messages" in table.columns)
        found = []
        for index, row in enumerate(table.rows):
            try:
                found.append(encoded(row, writer, answered=answered))
            except ConfigError as error:
                role = "messages" if row.get("messages") else "prompt"
                raise table.error(index, role, error.message, hint=error.hint) from error
        return found

    def prompt_ids(self, row: Mapping[str, Any], tokenizer: Any) -> list[int]:
        if is_plain(name for name, cell in row.items() if cell is not None):
            plain: list[int] = encoded_text(row["text"], tokenizer, limit=None, learned=False)["prompt_ids"]
            return plain
        writer = ChatWriter(tokenizer, self.options)
        ids: list[int] = encoded(row, writer, answered=False, cut=False)["prompt_ids"]
        return ids

    def written_answers(self, answer: str, tokenizer: Any) -> list[list[int]]:
        writer = ChatWriter(tokenizer, self.options)
        chat = [{"role": "user", "content": "a prompt"}, {"role": "assistant", "content": answer}]
        # Without a template, a completion follows its prompt as it is: with a space, if the rows have one.
        spaces = ("",) if writer.templated else ("", " ")
        rows: list[dict[str, Any]] = [{"prompt": "a prompt", "completion": space + answer} for space in spaces]
        found = [encoded(row, writer, answered=True, cut=False) for row in [*rows, {"messages": chat}]]
        return [list(one["input_ids"][len(one["prompt_ids"]) :]) for one in found]

    def answer_ends(self, tokenizer: Any) -> list[int]:
        return ChatWriter(tokenizer, self.options).ends

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": [1] * length}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        import torch

        longest = max(len(example["input_ids"]) for example in examples)
        ids = torch.full((len(examples), longest), int(tokenizer.pad_token_id))
        mask = torch.zeros(len(examples), longest, dtype=torch.long)
        for index, example in enumerate(examples):
            ids[index, : len(example["input_ids"])] = torch.tensor(example["input_ids"])
            mask[index, : len(example["input_ids"])] = 1
        batch: Batch = {"input_ids": ids, "attention_mask": mask}
        if "labels" in examples[0]:
            labels = torch.full((len(examples), longest), IGNORE)
            for index, example in enumerate(examples):
                labels[index, : len(example["labels"])] = torch.tensor(example["labels"])
            # Position t predicts token t + 1: shifted here, so that everyone counts the same labels.
            batch["labels"] = torch.cat([labels[:, 1:], torch.full((len(examples), 1), IGNORE)], dim=1)
        return batch

    def packs(self, model: Model) -> bool:
        return self._wants_packing(model) and self.why_padded(model) is None

    def why_padded(self, model: Model) -> str | None:
        from pefttools.tasks.language.padding_free import enable

        if not self._wants_packing(model):
            return None
        if model not in self._padded:
            with model.precision():
                self._padded[model] = enable(model.transformer, exact=not model.quantized)
        return self._padded[model]

    def _wants_packing(self, model: Model) -> bool:
        return self.options.packing and model.capabilities.packing

    def training_batch(self, model: Model, examples: Sequence[Example]) -> Batch:
        from pefttools.tasks.language.language_head import places
        from pefttools.tasks.language.padding_free import pays, without_padding

        if pays([len(example["input_ids"]) for example in examples]) and self.packs(model):
            batch = without_padding(examples)
        else:
            batch = self.collate(examples, model.processor)
        if "labels" in batch:
            batch[LABELLED] = places(batch["labels"])
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = transformer(**self.model_inputs(batch), use_cache=False).logits
        return logits[:, -batch["input_ids"].shape[1] :]

    def idle_options(self, tokenizer: Any, train: Table) -> list[str]:
        writer, options = ChatWriter(tokenizer, self.options), self.options
        plain = is_plain(train.columns)
        idle = {
            "template": "plain texts use no template" * plain,
            "system": "there is no chat template, and task.plain=joined has no place for it"
            * (not writer.takes_system),
            "plain": "the tokenizer's chat template writes the texts" * writer.templated,
            "train_on": "a prompt has one answer" * ("messages" not in train.columns),
            "max_new_tokens": "task.generate is off" * (not options.generate),
            **dict.fromkeys(("answers", "examples", "shots"), "plain texts have no prompts" * plain),
        }
        given = options.model_fields_set
        return [f"task.{name} has no effect: {why}" for name, why in idle.items() if why and name in given]

    def answers(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[str]:
        padded = model.capabilities.left_padding

        def run(batch: list[Example]) -> list[str]:
            if padded:
                return generate(batch)
            groups = itertools.groupby(batch, key=lambda example: len(example["prompt_ids"]))
            return [answer for _, group in groups for answer in generate(list(group))]

        def generate(batch: list[Example]) -> list[str]:
            prompts = [{"input_ids": example["prompt_ids"]} for example in batch]
            inputs = model.processor.pad(prompts, padding_side="left", return_tensors="pt")
            only = constraint(own, len(batch), inputs["input_ids"].shape[1])
            new = model.generate(dict(inputs), ends=ends, max_new_tokens=self.options.max_new_tokens, **only)
            return [answer_text(row, model.processor, ends).strip() for row in new.tolist()]

        ends = {*self.answer_ends(model.processor), *end_tokens(model.transformer)}
        own = self.only_answers(model.processor, ends)
        # Batches are formed by the length of the prompt here, not of the whole example.
        prompts = [{"input_ids": example["prompt_ids"], "prompt_ids": example["prompt_ids"]} for example in examples]
        return cast("list[str]", in_order_of_size(prompts, self.sizes(prompts), batch_size, run, progress))
