"""What tasks have in common that read a picture by a head on the base's states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import BaseModelError
from pefttools.tasks.head import HeadTask
from pefttools.tasks.task import Batch, Example, TaskConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base
    from pefttools.tasks.model import Model


class ImageHeadConfig(TaskConfig):
    """Options of every such task."""

    head: Literal["model", "mean", "cls"] = Field(
        "model",
        description="model: the model's own head; mean, cls: pool the states of the patches and add one linear layer",
    )


ConfigT = TypeVar("ConfigT", bound=ImageHeadConfig)


class ImageHeadTask(HeadTask[ConfigT]):
    """One answer per picture, in the column `image`: a path beside the data file, or the bytes of a file.

    Pictures are decoded where a batch is made of them, so that no more than a batch of pixels is in memory.
    """

    modality = "image"
    auto_class = "AutoModelForImageClassification"
    reads: ClassVar[frozenset[str]] = frozenset({"pixel_values"})
    sized_by = None

    def head_kind(self, base: Base) -> str:
        return self.options.head

    @abstractmethod
    def target(self, table: Table, index: int, labels: Sequence[str]) -> Any:
        """What is to be learned of a row that was checked, as it stands in its example's ``labels``."""

    def processor(self, base: Base) -> Any:
        from transformers import AutoImageProcessor

        from pefttools.bases.quiet import quiet
        from pefttools.bases.skeleton import Skeleton

        if isinstance(base, Skeleton):
            return None  # there are no pictures to prepare
        try:
            with quiet():
                return AutoImageProcessor.from_pretrained(base.folder, backend="pil")
        except (OSError, ValueError) as error:
            raise BaseModelError(f"the base model {base.id!r} has no image processor: {error}") from error

    def check_image(self, table: Table, index: int, *, whole: bool = False) -> None:
        """Refuse a row whose picture is missing, damaged or in no known format.

        Args:
            table: the rows.
            index: of the row.
            whole: decode it, which finds every damage and takes time.

        Raises:
            DataError: names file, row and column.
        """
        from pefttools.data.pictures import check_picture, read_picture

        cell = table.beside(index, table.rows[index].get("image"))
        try:
            check_picture(cell)
        except ValueError as error:
            raise table.error(index, "image", str(error)) from error
        if whole:
            read_picture(cell, table.place(index, "image"))

    def encode(self, table: Table, processor: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        learned = labelled and all(role in table.columns for role, one in self.roles.items() if not one.is_input)
        examples = []
        for index, row in enumerate(table.rows):
            example: Example = {
                "image": table.beside(index, row["image"]),
                "where": table.place(index, "image"),
            }
            if learned:
                example["labels"] = self.target(table, index, labels)
            examples.append(example)
        return examples

    def collate(self, examples: Sequence[Example], processor: Any) -> Batch:
        import torch

        from pefttools.data.pictures import read_picture

        mode = _mode(processor)
        pictures = [read_picture(one["image"], one["where"], mode) for one in examples]
        batch: Batch = {"pixel_values": processor(images=pictures, return_tensors="pt")["pixel_values"]}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def probe(self, processor: Any) -> Batch:
        from PIL import Image

        mode = _mode(processor)
        return {"pixel_values": processor(images=[Image.new(mode, (32, 32), 128)], return_tensors="pt")["pixel_values"]}

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        from pefttools.sites import transformers_models

        config: Any = transformers_models(model.transformer)[0].config
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        labels = self.planned_example(1, model.labels)["labels"]
        return {
            "pixel_values": torch.zeros(len(sizes), config.num_channels, height, width),
            "labels": torch.tensor([labels] * len(sizes)),
        }

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        import torch

        pixels = batch["pixel_values"]
        parameter = next(transformer.parameters())
        outputs = transformer(pixel_values=pixels.to(parameter.dtype) if not torch.is_autocast_enabled(
            pixels.device.type) else pixels)  # fmt: skip
        if head is None:
            return cast("torch.Tensor", outputs.logits)
        states = outputs.last_hidden_state
        return cast("torch.Tensor", head(states, torch.ones(states.shape[:2], device=states.device)))


def _mode(processor: Any) -> str:
    """How Pillow names the channels that a processor takes: grey or colour."""
    return "L" if len(processor.image_mean or (0, 0, 0)) == 1 else "RGB"
