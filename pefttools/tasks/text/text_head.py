"""What tasks that read a text, or a pair of texts, with a head on the base's states have in common."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.methods import Method
from pefttools.tasks.head import HeadTask
from pefttools.tasks.task import Batch, Example, TextTaskConfig
from pefttools.tasks.text.texts import check_text, uncut

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base

HeadKind = Literal["auto", "mean", "cls", "last", "model"]


class TextHeadConfig(TextTaskConfig):
    """Options of every such task."""

    head: HeadKind = Field(
        "auto",
        description="mean, cls, last: pool the states and add one linear layer; model: the model's own head; "
        "auto: what the base's files say, else the model's own",
    )


ConfigT = TypeVar("ConfigT", bound=TextTaskConfig)
TextConfigT = TypeVar("TextConfigT", bound=TextHeadConfig)


class TextStatesTask(HeadTask[ConfigT]):
    """A task whose head reads the states of a text's tokens."""

    #: what to do if a method drops token types
    pairs_hint: ClassVar[str] = "Choose another method."

    def settle_model(self, transformer: nn.Module, processor: Any) -> None:
        """Tell transformers' class with a head which token is padding, and let it see the last token."""
        from pefttools.tasks.text.padding import pad_with, show_the_last_token

        pad_with(transformer, processor.pad_token_id)
        if not self.per_token:
            show_the_last_token(transformer)

    def check_inputs(self, method: Method[Any], roles: Collection[str], processor: Any) -> None:
        marked = self.has_pairs(roles) and "token_type_ids" in processor.model_input_names
        if marked and not method.capabilities.all_inputs:
            raise ConfigError(
                f"the method {method.name!r} can't tell the two texts of a pair apart on this model: it drops token "
                "types",
                hint=self.pairs_hint,
            )

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        from pefttools.heads.outputs import logits_of
        from pefttools.tasks.text.padding import padded_on_the_right

        batch = padded_on_the_right(batch)
        outputs = transformer(**batch)
        tokens = batch["attention_mask"].shape[1]
        # Methods that put virtual tokens before the input give states for them too.
        if head is None:
            logits = logits_of(outputs)
            return logits[:, -tokens:] if self.per_token else logits
        return cast("torch.Tensor", head(outputs.last_hidden_state[:, -tokens:], batch["attention_mask"]))


class TextHeadTask(TextStatesTask[TextConfigT]):
    """One answer per text or pair of texts, in the columns `text` and, optionally, `pair`."""

    auto_class = "AutoModelForSequenceClassification"
    peft_task_type = "SEQ_CLS"
    second_text = "pair"
    pairs_hint = "Choose another method, or join the texts in one column."

    def head_kind(self, base: Base) -> str:
        return pooling_of(base) if self.options.head == "auto" else self.options.head

    @abstractmethod
    def target(self, table: Table, index: int, labels: Sequence[str]) -> Any:
        """What is to be learned from a row that was checked, as it appears in its example's ``labels``."""

    def has_pairs(self, roles: Collection[str]) -> bool:
        return "pair" in roles

    def check_texts(self, table: Table, index: int) -> None:
        """Refuse a row whose texts are missing or not text.

        Raises:
            DataError: names file, row and column.
        """
        for role in ("text", "pair"):
            if role in table.columns:
                check_text(table, index, role, table.rows[index])

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        pairs = table.column("pair") if "pair" in table.columns else None
        texts = table.column("text")
        encoded = tokenizer(texts, pairs, truncation=True, max_length=self.options.max_length)
        # Without pairs all token types are the same, and several methods can't pass them on.
        names = [name for name in encoded if name != "token_type_ids" or pairs is not None]
        examples: list[Example] = [{name: encoded[name][index] for name in names} for index in range(len(table))]
        learned = labelled and all(role in table.columns for role, one in self.roles.items() if not one.is_input)
        for index, example in enumerate(examples):
            pair, left = None if pairs is None else pairs[index], len(example["input_ids"])
            example["length"] = uncut(left, self.options.max_length, tokenizer, texts[index], pair)
            if learned:
                example["labels"] = self.target(table, index, labels)
        return examples

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        import torch

        inputs = [{key: value for key, value in one.items() if key not in ("labels", "length")} for one in examples]
        batch: Batch = dict(tokenizer.pad(inputs, padding_side="right", return_tensors="pt"))
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch


def pooling_of(base: Base) -> str:
    """The head that the base's own files ask for: sentence-transformers says how it pools."""
    pooling = base.folder / "1_Pooling" / "config.json"
    if (base.folder / "modules.json").is_file() and pooling.is_file():
        config = json.loads(pooling.read_text(encoding="utf-8"))
        for key, kind in (("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")):
            if config.get(f"pooling_mode_{key}") or config.get("pooling_mode") == kind:
                return kind
    return "model"
