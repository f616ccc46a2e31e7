"""What encoder-decoder tasks have in common: a decoder writes answers from what an encoder made of the input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from pydantic import Field

from pefttools.bases.model_class import TEXT
from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.methods import Target
from pefttools.sites import transformers_models
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.language.allowed import constraint
from pefttools.tasks.language.generating_task import GeneratingConfig, GeneratingTask
from pefttools.tasks.language.generation import answer_text, end_tokens
from pefttools.tasks.number_format import in_format, number_format
from pefttools.tasks.task import IGNORE, LABELLED, Batch, Example, Progress, TaskModel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model


class EncoderDecoderConfig(GeneratingConfig):
    """Options of every such task."""

    max_target_length: int = Field(
        128, ge=4, description="longest target text, in tokens; longer ones are truncated, and counted"
    )
    max_new_tokens: int = Field(128, ge=1, description="longest generated answer, in tokens")
    beams: int = Field(1, ge=1, description="beam width of generation; 1: greedy")


ConfigT = TypeVar("ConfigT", bound=EncoderDecoderConfig)


class EncoderDecoderTask(GeneratingTask[ConfigT]):
    """A text is written token by token, by a decoder that attends to the encoder's states.

    A batch has ``decoder_input_ids``, ``[rows, target tokens]``: the tokens to learn, one position later. The
    first of each row is the model's own start token, which only the model knows: `IGNORE` is in its place.
    """

    encoder_decoder = True
    #: the base's main input, by any of these names
    reads: ClassVar[frozenset[str]] = TEXT

    @abstractmethod
    def tokenizer_of(self, processor: Any) -> Any:
        """The tokenizer that writes the answers."""

    def unlearned(self, processor: Any) -> list[int]:
        """Tokens between the first one of every text and those that are learned, such as a language's."""
        return []

    def opening(self, config: Any, processor: Any) -> list[int]:
        """Tokens that the decoder of a base with this configuration begins with."""
        return [int(config.decoder_start_token_id), *self.unlearned(processor)]

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        import transformers

        from pefttools.bases.loading import load_transformer

        processor = self.processor(base)
        transformer, missing = load_transformer(getattr(transformers, self.auto_class), base, variant, reads=self.reads)
        if missing:
            raise ConfigError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(missing[:3])}")
        return TaskModel(transformer, None, "model", Target(self.name, self.peft_task_type), processor)

    @property
    def other_limit(self) -> str:
        return f" or task.max_target_length={self.options.max_target_length}"

    def learn(self, example: Example, text: str, processor: Any) -> int:
        """Put the tokens of a text to learn into an example: ``labels`` and ``reference``.

        A text that is cut has no end to learn.

        Returns:
            Number of tokens before anything was cut.
        """
        ids = self._learned(text, processor)
        example |= {"labels": ids[: self.options.max_target_length], "reference": text}
        return len(ids)

    def _learned(self, text: str, processor: Any) -> list[int]:
        """All tokens of a text to learn."""
        before = self.unlearned(processor)
        ids = list(self.tokenizer_of(processor)(text_target=text)["input_ids"])
        # The tokenizer writes them too, and the first one of every text.
        return ids[1 + len(before) :] if before else ids

    def written_answers(self, answer: str, processor: Any) -> list[list[int]]:
        return [self._learned(answer, processor)]

    def answer_ends(self, processor: Any) -> list[int]:
        end = self.tokenizer_of(processor).eos_token_id
        return [] if end is None else [int(end)]

    def collate(self, examples: Sequence[Example], processor: Any) -> Batch:
        import torch

        batch = self.input_batch(examples, processor)
        if "labels" not in examples[0]:
            batch["decoder_input_ids"] = torch.full((len(examples), 1), IGNORE)
            return batch
        before = torch.tensor(self.unlearned(processor), dtype=torch.long)
        longest = len(before) + max(len(example["labels"]) for example in examples)
        labels = torch.full((len(examples), longest), IGNORE)
        ids = torch.full((len(examples), longest), int(self.tokenizer_of(processor).pad_token_id))
        for row, example in enumerate(examples):
            written = torch.cat([before, torch.tensor(example["labels"])])
            labels[row, len(before) : len(written)] = written[len(before) :]
            ids[row, 1 : len(written)] = written[:-1]
        ids[:, 0] = IGNORE
        batch["decoder_input_ids"], batch["labels"] = ids, labels
        return batch

    def training_batch(self, model: Model, examples: Sequence[Example]) -> Batch:
        from pefttools.tasks.language.language_head import places

        batch = self.collate(examples, model.processor)
        batch[LABELLED] = places(batch["labels"])
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:

        given = {name: tensor for name, tensor in batch.items() if name != LABELLED}
        ids = given["decoder_input_ids"]
        given["decoder_input_ids"] = ids.masked_fill(ids == IGNORE, start_token(transformer))
        for name in self.reads - TEXT & given.keys():  # numbers, which a model takes in the format of its weights
            given[name] = in_format(transformer, given[name])
        return cast("torch.Tensor", transformer(**given, use_cache=False).logits)

    def planned_targets(self, rows: int, length: int) -> Batch:
        """The part of a planned batch that the decoder reads and learns."""
        import torch

        ids = torch.ones(rows, min(length, self.options.max_target_length), dtype=torch.long)
        return {"decoder_input_ids": ids, "labels": ids.clone()}

    def prompt_ids(self, row: Mapping[str, Any], processor: Any) -> list[int]:
        raise ConfigError(
            f"the task {self.name!r} does not continue a text: its encoder reads one, its decoder writes another"
        )

    def idle_options(self, processor: Any, train: Table) -> list[str]:
        idle = [] if self.options.generate else ["max_new_tokens", "beams"]
        given = self.options.model_fields_set
        return [f"task.{name} has no effect: task.generate is off" for name in idle if name in given]

    def written(self, model: Model, examples: Sequence[Example], **options: Any) -> torch.Tensor:
        """What a model writes for a batch: the new tokens only, ``[rows, new]``.

        Args:
            model: the model.
            examples: encoded rows.
            options: of `Model.generate`.
        """
        import torch

        inputs = self.input_batch(examples, model.processor)
        for name in self.reads - TEXT & inputs.keys():
            inputs[name] = inputs[name].to(number_format(model.transformer))
        opening = self.opening(transformers_models(model.transformer)[0].config, model.processor)
        return model.generate(inputs, decoder_input_ids=torch.tensor([opening] * len(examples)), **options)

    def answers(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[str]:
        tokenizer = self.tokenizer_of(model.processor)
        ends = {*self.answer_ends(model.processor), *end_tokens(model.transformer)}

        own = self.only_answers(model.processor, ends)
        start = len(self.opening(transformers_models(model.transformer)[0].config, model.processor))

        def run(batch: list[Example]) -> list[str]:
            new = self.written(
                model, batch, ends=ends, max_new_tokens=self.options.max_new_tokens, num_beams=self.options.beams,
                **constraint(own, len(batch), start),
            )  # fmt: skip
            return [answer_text(row, tokenizer, ends).strip() for row in new.tolist()]

        return in_order_of_size(examples, self.sizes(examples), batch_size, run, progress)


def start_token(transformer: nn.Module) -> int:
    """The token that a model's decoder begins with."""
    return int(transformers_models(transformer)[0].config.decoder_start_token_id)
