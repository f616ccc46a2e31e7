"""What tasks have in common that hear a sound by a head on the base's states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic import Field

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.data.mapped import MappedItems
from pefttools.tasks.head import HeadTask
from pefttools.tasks.size_unit import SECONDS
from pefttools.tasks.task import Batch, Example, TaskConfig, TaskModel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model


class AudioHeadConfig(TaskConfig):
    """Options of every such task."""

    head: Literal["model", "mean"] = Field(
        "model",
        description="model: the model's own head; mean: the mean of the states of the sound, without those of padding, "
        "and one linear layer",
    )
    max_seconds: float = Field(
        30.0,
        ge=0.1,
        allow_inf_nan=False,
        description="longest sound, in seconds; longer ones are truncated, and counted. Where a base takes sounds of "
        "one length, as Whisper does, all are padded to it: the shorter, the less time and memory",
    )


ConfigT = TypeVar("ConfigT", bound=AudioHeadConfig)


class AudioHeadTask(HeadTask[ConfigT]):
    """One answer per sound, in the column `audio`: a path beside the data file, or the bytes of a file.

    Sounds are decoded where a batch is made of them, so that no more than a batch of samples is in memory.
    """

    modality = "audio"
    auto_class = "AutoModelForAudioClassification"
    reads = frozenset({"input_features", "input_values"})
    size_unit = SECONDS
    sized_by = "size"
    # Whole layers and stretches of sound are left out at random by no generator that a seed reaches.
    config_changes = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}  # noqa: RUF012

    def head_kind(self, base: Base) -> str:
        return self.options.head

    @abstractmethod
    def target(self, table: Table, index: int, labels: Sequence[str]) -> Any:
        """What is to be learned of a row that was checked, as it stands in its example's ``labels``."""

    def processor(self, base: Base) -> Any:
        from pefttools.tasks.sound_inputs import sound_inputs

        return sound_inputs(base, self.options.max_seconds)

    def input_limit(self, base: Base) -> int | None:
        from pefttools.tasks.sound_inputs import seconds_taken

        taken = seconds_taken(base)
        return None if taken is None else int(taken * self.size_unit.parts)

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        from pefttools.tasks.sound_inputs import settle_encoder

        built = super().build(base, variant, labels, head_kind)
        settle_encoder(built.transformer, built.processor.positions)
        return built

    def identity(self, row: Row) -> Hashable:
        return hash(row["audio"])

    def check_audio(self, table: Table, index: int, *, whole: bool = False) -> None:
        """Refuse a row whose sound is missing, empty, damaged or in no known format.

        Args:
            table: the rows.
            index: of the row.
            whole: decode it, which finds every damage and takes time.

        Raises:
            DataError: names file, row and column.
        """
        from pefttools.data.sounds import read_sound, sound_seconds

        cell = table.beside(index, table.rows[index].get("audio"))
        try:
            found = sound_seconds(cell)
        except ValueError as error:
            raise table.error(index, "audio", str(error)) from error
        if whole:
            # At its own rate: which one the base takes changes nothing.
            read_sound(cell, table.place(index, "audio"), None, min(found, self.options.max_seconds))

    def idle_options(self, processor: Any, train: Table) -> list[str]:
        from pefttools.data.sounds import sound_seconds

        if processor.samples is None or not len(train):
            return []
        cells = (train.beside(index, row["audio"]) for index, row in enumerate(train.rows))
        longest, padded = max(map(sound_seconds, cells)), processor.samples / processor.rate
        if longest > padded / 2:
            return []
        return [
            f"task.max_seconds={padded:g}: all sounds are padded to it for this base, and the longest of the training "
            f"rows has {longest:.2f} seconds; a lower one saves time and memory"
        ]

    def encode(self, table: Table, processor: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        from pefttools.data.sounds import sound_seconds

        learned = labelled and all(role in table.columns for role, one in self.roles.items() if not one.is_input)
        limit = self.longest_input or 0
        examples = []
        for index, row in enumerate(table.rows):
            cell = table.beside(index, row["audio"])
            try:
                length = max(1, round(sound_seconds(cell) * self.size_unit.parts))
            except ValueError as error:
                raise table.error(index, "audio", str(error)) from error
            example: Example = {
                "audio": cell,
                "where": table.place(index, "audio"),
                "length": length,
                "size": min(length, limit),
            }
            if learned:
                example["labels"] = self.target(table, index, labels)
            examples.append(example)
        return examples

    def size(self, example: Example) -> int:
        return int(example["size"])

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        if isinstance(examples, MappedItems):
            return examples.numbers("size")
        return [self.size(example) for example in examples]

    def collate(self, examples: Sequence[Example], processor: Any) -> Batch:
        import torch

        from pefttools.data.sounds import read_sound

        longest = self.options.max_seconds
        batch: Batch = processor([read_sound(one["audio"], one["where"], processor.rate, longest) for one in examples])
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def probe(self, processor: Any) -> Batch:
        import numpy as np

        tone = np.sin(np.arange(processor.rate) * (2 * np.pi * 440 / processor.rate))
        batch: Batch = processor([tone.astype(np.float32)])
        return batch

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        shapes = model.processor.shapes(max(sizes) / self.size_unit.parts)
        batch: Batch = {name: torch.ones((len(sizes), *shape), dtype=kind) for name, (shape, kind) in shapes.items()}
        batch["labels"] = torch.tensor([self.planned_example(1, model.labels)["labels"]] * len(sizes))
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        import torch

        from pefttools.sites import transformers_models
        from pefttools.tasks.sound_inputs import state_mask, takes_mask

        (name,) = self.reads & batch.keys()
        sound, mask = batch[name], batch.get("attention_mask")
        parameter = next(transformer.parameters())
        given = {name: sound if torch.is_autocast_enabled(sound.device.type) else sound.to(parameter.dtype)}
        if mask is not None and takes_mask(transformers_models(transformer)[0].config):
            given["attention_mask"] = mask
        outputs = transformer(**given)
        if head is None:
            return cast("torch.Tensor", outputs.logits)
        states = outputs.last_hidden_state
        return cast("torch.Tensor", head(states, state_mask(transformer, mask, states)))
