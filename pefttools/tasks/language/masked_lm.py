"""Masked language modelling: some tokens of a text are masked, and learned from those around them.

Devlin, Chang, Lee and Toutanova (2019). BERT. NAACL. https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import BaseModelError, ConfigError
from pefttools.methods import Target
from pefttools.tasks.evaluation import Prediction
from pefttools.tasks.language.generation import TextPrediction
from pefttools.tasks.language.language_task import LanguageConfig, LanguageTask
from pefttools.tasks.task import IGNORE, LABELLED, Batch, Example, Progress, Role, TaskModel, TextTaskConfig
from pefttools.tasks.text.texts import check_text, uncut

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model

#: of the masked tokens: the shares that become the mask token, or another token; the rest stay as they are
_MASKED, _REPLACED = 0.8, 0.1


class MaskedLMConfig(LanguageConfig, TextTaskConfig):
    """Options of masked language modelling."""

    share: float = Field(0.15, gt=0, lt=1, description="share of a text's tokens that are masked and learned")
    head: Literal["auto", "model"] = Field(
        "auto", description="model: the base's own language head; auto: if the base has none, a new one is trained"
    )


@dataclass(frozen=True)
class FilledPrediction(Prediction):
    """A text whose masks are filled in.

    Attributes:
        answer: the text.
        tokens: the most likely token for each mask.
        probabilities: of these tokens.
    """

    answer: str
    tokens: Sequence[str]
    probabilities: Sequence[float]

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        scores = [round(one, 8) for one in self.probabilities]
        return {"prediction": self.answer, "tokens": list(self.tokens), "scores": scores}


class MaskedLM(LanguageTask[MaskedLMConfig]):
    """A column `text`. Different tokens are masked each time that a text is trained on; at evaluation always the same.

    What is masked at evaluation depends on the text alone (its sha256), not on the rest of the data.
    """

    name = "masked-lm"
    summary = "masked tokens of a text, from those around them: an encoder learns a domain's language"
    config = MaskedLMConfig
    roles = {"text": Role("text")}  # noqa: RUF012
    auto_class = "AutoModelForMaskedLM"
    peft_task_type = "FEATURE_EXTRACTION"
    per_token = True
    self_supervised = True
    servable = False

    @classmethod
    def misspellable(cls) -> frozenset[str]:
        return frozenset()  # what is read is what is learned

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            check_text(table, index, "text", row)

    def processor(self, base: Base) -> Any:
        tokenizer = super().processor(base)
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise BaseModelError(f"the tokenizer of {base.id!r} has no mask token")
        return tokenizer

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        from transformers import AutoModelForMaskedLM

        from pefttools.bases.loading import load_transformer
        from pefttools.bases.skeleton import Skeleton

        tokenizer = self.processor(base)
        transformer, missing = load_transformer(AutoModelForMaskedLM, base, variant)
        if isinstance(base, Skeleton):
            missing = _said_to_be_missing(transformer)
        heads = _new_head(transformer, missing)
        outside = [name for name in missing if name.startswith(f"{transformer.base_model_prefix}.")]
        if outside or (heads and self.options.head == "model"):
            lacking = (outside or missing)[:3]
            raise ConfigError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(lacking)}")
        return TaskModel(transformer, None, "model", Target(self.name, self.peft_task_type, heads), tokenizer)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        limit, texts = self.options.max_length, table.column("text")
        encoded = tokenizer(texts, truncation=True, max_length=limit, return_special_tokens_mask=True)
        examples: list[Example] = []
        for index, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)):
            example: Example = {
                "input_ids": list(ids),
                "length": uncut(len(ids), limit, tokenizer, texts[index]),
            }
            if labelled:
                example["words"] = [place for place, one in enumerate(special) if not one]
                example["seed"] = int.from_bytes(hashlib.sha256(texts[index].encode()).digest()[:7])
                example["reference"] = ""
                example["labels"] = example["input_ids"]
            else:
                masks = [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]
                example["fill"] = (tokenizer, masks)  # `decode`, which fills them in, has no other tokenizer
            examples.append(example)
        return examples

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        return self._collated(examples, tokenizer, [example.get("seed", 0) for example in examples])

    def training_batch(self, model: Model, examples: Sequence[Example]) -> Batch:
        import torch

        from pefttools.tasks.language.language_head import places

        # From torch's generator, which a checkpoint saves: a resumed training run masks the same tokens.
        seeds = torch.randint(1 << 50, (len(examples),)).tolist()
        batch = self._collated(examples, model.processor, seeds)
        batch[LABELLED] = places(batch["labels"])
        return batch

    def _collated(self, examples: Sequence[Example], tokenizer: Any, seeds: Sequence[int]) -> Batch:
        import torch

        hidden = [self._hidden(one, seed, tokenizer) for one, seed in zip(examples, seeds, strict=True)]
        inputs = [
            {"input_ids": [changed.get(place, one) for place, one in enumerate(example["input_ids"])]}
            for example, (changed, _) in zip(examples, hidden, strict=True)
        ]
        batch: Batch = dict(tokenizer.pad(inputs, padding_side="right", return_tensors="pt"))
        if "words" in examples[0]:
            batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
            for row, (_, wanted) in enumerate(hidden):
                for place, token in wanted.items():
                    batch["labels"][row, place] = token
        return batch

    def _hidden(self, example: Example, seed: int, tokenizer: Any) -> tuple[dict[int, int], dict[int, int]]:
        """Places that are changed -> the token put there, and places that are learned -> the true token."""
        draw, words = random.Random(seed), example.get("words", ())
        if not words:
            return {}, {}
        chosen = draw.sample(words, max(1, round(self.options.share * len(words))))
        changed: dict[int, int] = {}
        for place in chosen:
            fate = draw.random()
            if fate < _MASKED:
                changed[place] = int(tokenizer.mask_token_id)
            elif fate < _MASKED + _REPLACED:
                changed[place] = draw.randrange(len(tokenizer))
        return changed, {place: example["input_ids"][place] for place in chosen}

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        learned = max(1, round(self.options.share * length))
        wanted = [1] * learned + [IGNORE] * (length - learned)
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": wanted}

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        batch = super().planned_batch(model, sizes)
        # Without values, there is no telling how many there are.
        of_row = max(1, round(self.options.share * max(sizes)))
        return batch | {LABELLED: torch.arange(of_row * len(sizes))}

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        from pefttools.tasks.text.padding import padded_on_the_right

        given = padded_on_the_right({name: tensor for name, tensor in batch.items() if name != LABELLED})
        logits: torch.Tensor = transformer(**given).logits
        return logits[:, -given["input_ids"].shape[1] :]

    def predict(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[Prediction]:
        if not examples or "words" not in examples[0]:
            return super().predict(model, examples, batch_size=batch_size, progress=progress)
        return [TextPrediction(None, *numbers) for numbers in self.scored(model, examples, batch_size, progress)]

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> FilledPrediction:
        tokenizer, masks = example["fill"]
        likely = logits[masks].softmax(-1)
        probabilities, best = likely.max(-1)
        ids = list(example["input_ids"])
        for place, token in zip(masks, best.tolist(), strict=True):
            ids[place] = token
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return FilledPrediction(text, tokenizer.convert_ids_to_tokens(best.tolist()), probabilities.tolist())


def _said_to_be_missing(transformer: nn.Module) -> list[str]:
    """For a base whose files are not read: the whole language head, if its configuration names another class."""
    config: Any = transformer.config
    if str((config.architectures or [""])[0]).endswith(("ForMaskedLM", "ForPreTraining")):
        return []
    inside = f"{transformer.base_model_prefix}."
    return [name for name, _ in transformer.named_parameters() if not name.startswith(inside)]


def _new_head(transformer: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Modules of the language head that the base's files have no weights for, and that are therefore trained.

    Biases on their own, and what is tied to the embeddings, stay as they are.
    """
    outside = {name.rpartition(".")[0] for name in missing if not name.startswith(f"{transformer.base_model_prefix}.")}
    leaves = {name for name in outside if next(transformer.get_submodule(name).children(), None) is None}
    embeddings = transformer.get_output_embeddings()  # type: ignore[operator]
    return tuple(sorted(name for name in leaves if transformer.get_submodule(name) is not embeddings))
