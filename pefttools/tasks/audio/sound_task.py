"""What tasks whose models hear sounds have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.data.mapped import MappedItems
from pefttools.tasks.size_unit import SECONDS
from pefttools.tasks.task import Batch, Example, Task, TaskConfig

if TYPE_CHECKING:
    from pefttools.bases import Base


class SoundConfig(TaskConfig):
    """Options of every such task."""

    max_seconds: float = Field(
        30.0,
        ge=0.1,
        allow_inf_nan=False,
        description="longest sound, in seconds; longer ones are truncated, and counted. If a base takes sounds of "
        "one length, as Whisper does, all are padded to it: the shorter, the less time and memory",
    )


ConfigT = TypeVar("ConfigT", bound=SoundConfig)
#: samples per second that nearly all bases take, to find sounds that are too short to leave any samples at it
_A_RATE = 16_000


class SoundTask(Task[ConfigT]):
    """A column `audio`: a path relative to the data file, or the bytes of a file.

    Sounds are decoded when a batch is made of them, so that no more than a batch of samples is in memory.
    """

    modality = "audio"
    #: the base's main input, by any of these names
    reads: ClassVar[frozenset[str]] = frozenset({"input_features", "input_values"})
    size_unit = SECONDS
    sized_by = "size"

    def processor(self, base: Base) -> Any:
        from pefttools.tasks.audio.sound_inputs import sound_inputs

        return sound_inputs(base, self.options.max_seconds)

    def input_limit(self, base: Base) -> int | None:
        from pefttools.tasks.audio.sound_inputs import seconds_taken

        taken = seconds_taken(base)
        return None if taken is None else int(taken * self.size_unit.parts)

    def check_audio(self, table: Table, index: int, row: Row, *, whole: bool = False) -> None:
        """Refuse a row whose sound is missing, empty, damaged or in an unknown format.

        Args:
            table: the rows.
            index: index of the row.
            row: the row itself.
            whole: whether to decode it, which finds any damage but takes time.

        Raises:
            DataError: names file, row and column.
        """
        from pefttools.data.sounds import read_sound, sound_seconds

        cell = table.resolved(index, row.get("audio"))
        try:
            found = sound_seconds(cell)
        except ValueError as error:
            raise table.error(index, "audio", str(error)) from error
        if whole:
            read_sound(cell, table.place(index, "audio"), _A_RATE, min(found, self.options.max_seconds))

    def idle_options(self, processor: Any, train: Table) -> list[str]:
        from pefttools.data.sounds import sound_seconds

        if processor.samples is None or not len(train):
            return []
        cells = (train.resolved(index, row["audio"]) for index, row in enumerate(train.rows))
        longest, padded = max(map(sound_seconds, cells)), processor.samples / processor.rate
        if longest > padded / 2:
            return []
        return [
            f"task.max_seconds={padded:g}: all sounds are padded to it for this base, and the longest of the training "
            f"rows has {longest:.2f} seconds; a lower value saves time and memory"
        ]

    def sound_example(self, table: Table, index: int) -> Example:
        """The part of an example that says where the sound is, and how long.

        Raises:
            DataError: there is none.
        """
        from pefttools.data.sounds import sound_seconds

        cell = table.resolved(index, table.rows[index]["audio"])
        try:
            length = max(1, round(sound_seconds(cell) * self.size_unit.parts))
        except ValueError as error:
            raise table.error(index, "audio", str(error)) from error
        size = min(length, self.longest_input or 0)
        return {"audio": cell, "where": table.place(index, "audio"), "length": length, "size": size}

    def processor_key(self) -> Hashable:
        return self.options.max_seconds

    def batch_key(self, processor: Any) -> Hashable:
        # Each is cut to its own longest sound, even if none is padded to it.
        return processor.samples, self.options.max_seconds

    def input_batch(self, examples: Sequence[Example], processor: Any) -> Batch:
        from pefttools.data.sounds import read_sound

        longest = self.options.max_seconds
        batch: Batch = processor([read_sound(one["audio"], one["where"], processor.rate, longest) for one in examples])
        return batch

    def planned_sounds(self, processor: Any, sizes: Sequence[int]) -> Batch:
        """The part of a planned batch that the model hears."""
        import torch

        shapes = processor.shapes(max(sizes) / self.size_unit.parts)
        return {name: torch.ones((len(sizes), *shape), dtype=kind) for name, (shape, kind) in shapes.items()}

    def padded_size(self, size: int, processor: Any) -> int:
        return size if processor.samples is None else round(processor.samples / processor.rate * self.size_unit.parts)

    def size(self, example: Example) -> int:
        return int(example["size"])

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        if isinstance(examples, MappedItems):
            return examples.numbers("size")
        return [self.size(example) for example in examples]

    def probe(self, processor: Any) -> Batch:
        import numpy as np

        tone = np.sin(np.arange(processor.rate) * (2 * np.pi * 440 / processor.rate))
        batch: Batch = processor([tone.astype(np.float32)])
        return batch
