"""Classification by a pattern: a text is written into a sentence, and the word that a language model adds decides.

References:
    Schick, T. and Schuetze, H. (2021). Exploiting cloze questions for few shot text classification and natural language
    inference. EACL. https://arxiv.org/abs/2001.07676
    Zhao, Z. et al. (2021). Calibrate before use: improving few-shot performance of language models. ICML.
    https://arxiv.org/abs/2102.09690
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakKeyDictionary

from pydantic import Field, field_validator

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import BaseModelError, ConfigError, DataError
from pefttools.methods import Target
from pefttools.tasks.labels.class_config import ClassOptions
from pefttools.tasks.labels.one_label import ClassPrediction, OneLabelTask
from pefttools.tasks.task import Batch, Example, Prediction, Progress, Role, TaskModel, TextTaskConfig
from pefttools.tasks.text.patterns import PAIR, Pattern, check_pattern, word_tokens
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model

#: texts that say nothing, whose answers show what a model answers in any case
_NOTHING = ("N/A", "nothing", "...")


class PromptedConfig(TextTaskConfig, ClassOptions):
    """Options of classification by a pattern."""

    pattern: str = Field(
        "{text} This is about {mask}",
        description="the sentence: {text} and {pair} stand for the row's texts, {mask} for the word that is missing: "
        "the last one, unless the base fills in masks",
    )
    words: dict[str, str] = Field(
        default_factory=dict,
        description="label -> the word that stands for it, by its first token; a label left out is its own word",
    )
    calibrate: bool = Field(
        False,
        description="in prediction, take off what the model answers to texts that say nothing; for untuned models",
    )

    @field_validator("pattern")
    @classmethod
    def _whole(cls, value: str) -> str:
        check_pattern(value)
        return value


class PromptedClassification(OneLabelTask[PromptedConfig]):
    """Columns `text`, optionally `pair`, and `label`. The untuned base answers too: nothing in the head is new.

    Which words a label has is a matter of `words`; the logit of a label is that of its word. The language head is the
    base's own and stays as it is.
    """

    name = "prompted-classification"
    summary = "one label for a text, by the word that a language model puts into a sentence about it"
    config = PromptedConfig
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "pair": Role("text", required=False),
        "label": Role("label", is_input=False),
    }
    second_text = "pair"
    servable = False

    def __init__(self, config: PromptedConfig) -> None:
        super().__init__(config)
        if config.calibrate:
            self.why_not_attacked = "task.calibrate also reads texts that have no label"
        #: what is taken off the logits in prediction; None if nothing
        self._any_case: torch.Tensor | None = None
        #: label names, once they are known
        self._labels: tuple[str, ...] = ()
        #: for each model that was run: whether its language head can be run on single places
        self._in_places: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    @property
    def why_no_head(self) -> str | None:
        return "the answers are words of the base's own language head"

    def head_kind(self, base: Base) -> str:
        return "words"

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        task = copy.copy(super().settled(train, labels))
        task._labels = tuple(labels)
        return task

    def planned(self) -> Self:
        return type(self)(self.options.model_copy(update={"class_weights": None, "words": {}}))

    def processor(self, base: Base) -> Any:
        tokenizer = super().processor(base)
        if not _fills_masks(base):
            tokenizer.mask_token = None  # some have one though their base continues texts
        return tokenizer

    def check_with(self, processor: Any) -> None:
        self._words(self._labels, processor)

    def _words(self, labels: Sequence[str], tokenizer: Any) -> list[int]:
        pattern = Pattern(self.options.pattern, tokenizer)
        return word_tokens(self.options.words, labels, pattern) if labels else []

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        if (PAIR in self.options.pattern) != ("pair" in table.columns):
            has, rows = ("names", "lack") if PAIR in self.options.pattern else ("has no place for", "have")
            raise DataError(f"{table.source}: task.pattern {has} {PAIR}, but the rows {rows} a column `pair`")
        super().check(table, labels, labelled=labelled)

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        import transformers

        from pefttools.bases.loading import load_transformer
        from pefttools.bases.skeleton import Skeleton
        from pefttools.heads.words import LabelWords

        tokenizer = self.processor(base)
        masked = _fills_masks(base)
        auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
        transformer, missing = load_transformer(auto, base, variant)
        if missing:
            raise ConfigError(
                f"the base model {base.id!r} lacks weights of a language head: {', '.join(missing[:3])}",
                hint="Choose a base that was trained as a language model, or the task sequence-classification.",
            )
        # Without a base's files there are no words, of which nothing but the number matters.
        planned = isinstance(base, Skeleton)
        words = range(len(labels)) if planned else self._words(labels, tokenizer)
        head = LabelWords(list(words), tokenizer.mask_token_id if masked and not planned else None)
        target = Target(self.name, "FEATURE_EXTRACTION" if masked else "CAUSAL_LM")
        return TaskModel(transformer, head, "words", target, tokenizer)

    def check_input(self, table: Table, index: int, row: Row, *, labelled: bool) -> None:
        for role in ("text", "pair"):
            if role in table.columns:
                check_text(table, index, role, row)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        pattern, limit = Pattern(self.options.pattern, tokenizer), self.options.max_length
        examples: list[Example] = []
        for index, row in enumerate(table.rows):
            texts: dict[str, str] = {role: row[role] for role in self.inputs() & table.columns.keys()}
            try:
                ids, length = pattern.encode(texts, limit)
            except ConfigError as error:
                raise table.error(index, "text", error.message, hint=error.hint) from error
            example: Example = {"input_ids": ids, "length": length}
            if labelled and "label" in table.columns:
                example["labels"] = self.target(table, index, labels)
            examples.append(example)
        return examples

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        import torch

        from pefttools.tasks.text.padding import padded_texts

        batch = padded_texts(examples, tokenizer)
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        import torch

        from pefttools.heads.words import LabelWords
        from pefttools.tasks.language.language_head import before_head
        from pefttools.tasks.text.padding import padded_on_the_right

        assert isinstance(head, LabelWords)
        given = padded_on_the_right(batch)
        ids = given["input_ids"]
        options = {"use_cache": False} if head.mask is None else {}

        def run() -> torch.Tensor:
            # Methods that put virtual tokens before the input give logits for them too.
            return cast("torch.Tensor", transformer(**given, **options).logits[:, -ids.shape[1] :])

        found, language_head = before_head(transformer, run, self._in_places)
        rows = found[torch.arange(len(ids), device=ids.device), head.places(ids, given["attention_mask"])]
        return cast("torch.Tensor", head(rows if language_head is None else language_head(rows)))

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": 0}

    def predict(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[Prediction]:
        if not self.options.calibrate or not examples:
            return super().predict(model, examples, batch_size=batch_size, progress=progress)
        task = copy.copy(self)
        task._any_case = self._said_in_any_case(model)
        return super(PromptedClassification, task).predict(model, examples, batch_size=batch_size, progress=progress)

    def _said_in_any_case(self, model: Model) -> torch.Tensor:
        """Logarithms of the mean probability of each label for texts that say nothing, ``[labels]``."""
        pattern = Pattern(self.options.pattern, model.processor)
        ids = [pattern.encode({"text": text, "pair": text}, self.options.max_length)[0] for text in _NOTHING]
        logits = model.run([{"input_ids": one} for one in ids]).float().cpu()
        return logits.softmax(-1).mean(0).log()

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> ClassPrediction:
        return super().decode(logits if self._any_case is None else logits - self._any_case, example, labels)


def _fills_masks(base: Base) -> bool:
    """Whether a base was made to fill in masks, rather than to continue texts.

    Raises:
        BaseModelError: it has an encoder and a decoder.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    from pefttools.bases.skeleton import Skeleton

    outline = base if isinstance(base, Skeleton) else Skeleton(base.id, base.folder, base.revision)
    config = outline.configuration()
    if config.is_encoder_decoder:
        raise BaseModelError(
            f"the base model {base.id!r} has an encoder and a decoder, which the task "
            f"{PromptedClassification.name!r} does not support"
        )
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
