"""Texts from texts by an encoder and a decoder: translations, summaries, corrections, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pefttools.data import Table
from pefttools.data.mapped import MappedItems
from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.overlap import BLEU, ROUGE, ChrF
from pefttools.metrics.texts import ExactMatch
from pefttools.tasks.language.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTask
from pefttools.tasks.task import Batch, Example, Role, TextTaskConfig
from pefttools.tasks.text.texts import check_text, uncut

if TYPE_CHECKING:
    from pefttools.bases import Base
    from pefttools.tasks.model import Model

_SCORES: dict[str, tuple[Metric, ...]] = {
    "translation": (ChrF(), BLEU(), ExactMatch()),
    "summary": (ROUGE("rougeL"), ROUGE("rouge1"), ROUGE("rouge2")),
    "exact": (ExactMatch(),),
}


class Seq2SeqLMConfig(EncoderDecoderConfig, TextTaskConfig):
    """Options of sequence-to-sequence language modelling."""

    max_length: int = Field(512, ge=8, description="longest input, in tokens; longer ones are truncated, and counted")
    prefix: str = Field(
        "", description="prefix of every input, such as T5 was trained with: 'translate English to German: '"
    )
    scores: Literal["translation", "summary", "exact"] = Field(
        "translation",
        description="how generated answers are measured. translation: chrF and BLEU (sacrebleu); summary: ROUGE "
        "(rouge-score); exact: the share that is exactly right",
    )


class Seq2SeqLM(EncoderDecoderTask[Seq2SeqLMConfig]):
    """Columns `text` and `target`; the loss is that of the target."""

    name = "seq2seq-lm"
    summary = "a text from a text, by an encoder and a decoder: translation, summary"
    config = Seq2SeqLMConfig
    roles = {"text": Role("text"), "target": Role("text", is_input=False)}  # noqa: RUF012
    auto_class = "AutoModelForSeq2SeqLM"
    peft_task_type = "SEQ_2_SEQ_LM"

    def generated_metrics(self) -> list[Metric]:
        return list(_SCORES[self.options.scores])

    def tokenizer_of(self, processor: Any) -> Any:
        return processor

    def processor(self, base: Base) -> Any:
        tokenizer = super().processor(base)
        if getattr(tokenizer, "src_lang", None) is not None:
            raise ConfigError(
                f"the tokenizer of {base.id!r} needs to know the languages of its texts, which this task can't set yet",
                hint="Choose a base for one language pair, or one that reads the languages from the text, such as T5.",
            )
        return tokenizer

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            for role in ("text", "target") if labelled else ("text",):
                check_text(table, index, role, row)
            if labelled:
                self.check_allowed(table, index, "target", row["target"])

    def size(self, example: Example) -> int:
        return max(len(example["input_ids"]), len(example.get("labels", ())))

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        if not isinstance(examples, MappedItems) or "labels" not in examples.names:
            return super().sizes(examples)
        return list(map(max, examples.lengths("input_ids"), examples.lengths("labels")))

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        limit = self.options.max_length
        texts = [self.options.prefix + text for text in table.column("text")]
        encoded = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        targets = table.column("target") if labelled and "target" in table.columns else None
        examples: list[Example] = []
        for index, ids in enumerate(encoded):
            example: Example = {"input_ids": ids, "length": uncut(len(ids), limit, tokenizer, texts[index])}
            if targets is not None:
                written = self.learn(example, targets[index], tokenizer)
                whole, left = max(example["length"], written), self.size(example)
                is_cut = example["length"] > len(ids) or written > len(example["labels"])
                example["length"] = max(whole, left + 1) if is_cut else left
            examples.append(example)
        return examples

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        target = [1] * min(length, self.options.max_target_length)
        return {
            "input_ids": [1] * length,
            "attention_mask": [1] * length,
            "decoder_input_ids": target,
            "labels": target,
        }

    def probe(self, processor: Any) -> Batch:
        return self.collate([{"input_ids": processor("A short text.")["input_ids"]}], processor)

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        source = torch.ones(len(sizes), max(sizes), dtype=torch.long)
        return {
            "input_ids": source, "attention_mask": source.clone(), **self.planned_targets(len(sizes), max(sizes)),
        }  # fmt: skip
