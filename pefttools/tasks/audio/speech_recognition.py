"""Speech recognition by an encoder that hears and a decoder that writes, such as Whisper's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import BaseModelError, ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.overlap import BLEU, ROUGE, ChrF
from pefttools.metrics.texts import ExactMatch
from pefttools.metrics.transcripts import CER, WER
from pefttools.tasks.audio.sound_task import SoundConfig, SoundTask
from pefttools.tasks.language.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTask
from pefttools.tasks.task import Batch, Example, Role, TaskModel
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    from pefttools.bases import Base, BaseVariant
    from pefttools.data.sounds import Samples
    from pefttools.tasks.audio.sound_inputs import SoundInputs
    from pefttools.tasks.model import Model


class SpeechRecognitionConfig(EncoderDecoderConfig, SoundConfig):
    """Options of speech recognition."""

    language: str | None = Field(
        None, description="language of the sounds, for a multilingual base, as its tokenizer names it: english, de, ..."
    )


@dataclass(frozen=True)
class SpeechInputs:
    """What prepares sounds, and what writes texts.

    Attributes:
        sounds: makes batches of sounds.
        tokenizer: of the texts.
    """

    sounds: SoundInputs
    tokenizer: Any

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.sounds.rate

    @property
    def samples(self) -> int | None:
        """Samples that each sound is padded to."""
        return self.sounds.samples

    def __call__(self, sounds: Sequence[Samples]) -> Batch:
        """The base's main input; it takes sounds of one length, and no mask."""
        name, *_ = self.sounds.extractor.model_input_names
        return {name: self.sounds(sounds)[name]}

    def save_pretrained(self, folder: Any) -> None:
        """Write transformers' own files of both."""
        self.sounds.extractor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class SpeechRecognition(SoundTask[SpeechRecognitionConfig], EncoderDecoderTask[SpeechRecognitionConfig]):
    """Columns `audio` and `text`, what is said; the loss is that of the text."""

    name = "speech-recognition"
    summary = "what is said in a sound, by an encoder and a decoder"
    config = SpeechRecognitionConfig
    roles = {"audio": Role("audio"), "text": Role("text", is_input=False)}  # noqa: RUF012
    auto_class = "AutoModelForSpeechSeq2Seq"
    named_metrics = {  # noqa: RUF012
        "wer": WER, "cer": CER, "exact_match": ExactMatch, "bleu": BLEU, "chrf": ChrF, "rouge": ROUGE,
    }  # fmt: skip

    def generated_metrics(self) -> list[Metric]:
        return [WER(), CER(), ExactMatch()]

    def processor(self, base: Base) -> SpeechInputs:
        from pefttools.bases.loading import load_tokenizer

        sounds = super().processor(base)
        if sounds.positions is None:
            raise BaseModelError(
                f"the base model {base.id!r} can't write transcripts: only one with an encoder like Whisper's, "
                "which takes sounds of one length, can"
            )
        tokenizer = load_tokenizer(base)
        if self.options.language is not None:
            if not hasattr(tokenizer, "set_prefix_tokens"):
                raise ConfigError(f"task.language: the tokenizer of {base.id!r} knows no languages")
            try:
                tokenizer.set_prefix_tokens(language=self.options.language, task="transcribe")
                tokenizer.prefix_tokens  # noqa: B018
            except ValueError as error:
                raise ConfigError(f"task.language: {error}") from error
        return SpeechInputs(sounds, tokenizer)

    def processor_key(self) -> Hashable:
        return self.options.max_seconds, self.options.language

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        from pefttools.tasks.audio.sound_encoder import settle_encoder

        built = super().build(base, variant, labels, head_kind)
        settle_encoder(built.transformer, built.processor.sounds.positions)
        return built

    def tokenizer_of(self, processor: Any) -> Any:
        return processor.tokenizer

    def unlearned(self, processor: Any) -> list[int]:
        # The first of them is the one that every decoder begins with.
        return list(getattr(processor.tokenizer, "prefix_tokens", ()))[1:]

    def idle_options(self, processor: Any, train: Table) -> list[str]:
        return [
            *SoundTask.idle_options(self, processor, train),
            *EncoderDecoderTask.idle_options(self, processor, train),
        ]

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        for index, row in enumerate(table.rows):
            self.check_audio(table, index, row, whole=not labelled)  # in prediction, the other rows must go on
            if labelled:
                check_text(table, index, "text", row)
                self.check_allowed(table, index, "text", row["text"])

    def encode(self, table: Table, processor: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        texts = table.column("text") if labelled and "text" in table.columns else None
        examples = []
        for index in range(len(table)):
            example = self.sound_example(table, index)
            if texts is not None and self.learn(example, texts[index], processor) > len(example["labels"]):
                example["length"] = max(example["length"], example["size"] + 1)  # counted as cut
            examples.append(example)
        return examples

    def probe(self, processor: Any) -> Batch:
        import torch

        from pefttools.tasks.task import IGNORE

        return {**super().probe(processor), "decoder_input_ids": torch.full((1, 1), IGNORE)}

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"labels": [1] * self.options.max_target_length}

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        heard = self.planned_sounds(model.processor.sounds, sizes)
        name, *_ = model.processor.sounds.extractor.model_input_names
        return {name: heard[name], **self.planned_targets(len(sizes), self.options.max_target_length)}
