"""What tasks whose models read pictures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import BaseModelError
from pefttools.tasks.one_file import OneFileTask
from pefttools.tasks.task import Batch, Example, Modality, TaskConfig

if TYPE_CHECKING:
    from pefttools.bases import Base

ConfigT = TypeVar("ConfigT", bound=TaskConfig)

PIXELS = "pixel_values"


class PictureTask(OneFileTask[ConfigT]):
    """A column `image`: a path relative to the data file, or the bytes of a file.

    Pictures are decoded when a batch is made of them, so that no more than a batch of pixels is in memory.
    """

    modality: ClassVar[Modality] = "image"
    #: the base's main input, by any of these names
    reads: ClassVar[frozenset[str]] = frozenset({PIXELS})
    sized_by: ClassVar[str | None] = None

    def processor(self, base: Base) -> Any:
        return picture_inputs(base)

    def check_image(self, table: Table, index: int, row: Row, *, whole: bool = False) -> None:
        """Refuse a row whose picture is missing, damaged or in an unknown format.

        Args:
            table: the rows.
            index: index of the row.
            row: the row itself.
            whole: whether to decode it, which finds any damage but takes time.

        Raises:
            DataError: names file, row and column.
        """
        check_image(table, index, row, whole=whole)

    def file_example(self, table: Table, index: int) -> Example:
        return {"image": table.resolved(index, table.rows[index]["image"]), "where": table.place(index, "image")}

    def input_batch(self, examples: Sequence[Example], processor: Any) -> Batch:
        return pixels([(one["image"], one["where"]) for one in examples], processor)

    def probe(self, processor: Any) -> Batch:
        return a_picture(processor)


def check_image(table: Table, index: int, row: Row, *, whole: bool = False) -> None:
    """See `PictureTask.check_image`."""
    from pefttools.data.pictures import check_picture, read_picture

    cell = table.resolved(index, row.get("image"))
    try:
        check_picture(cell)
    except ValueError as error:
        raise table.error(index, "image", str(error)) from error
    if whole:
        read_picture(cell, table.place(index, "image"))


def picture_inputs(base: Base) -> Any:
    """The image processor of a base; None for a skeleton, which gets no pictures.

    Raises:
        BaseModelError: it has none.
    """
    from transformers import AutoImageProcessor

    from pefttools.bases.quiet import quiet
    from pefttools.bases.skeleton import Skeleton

    if isinstance(base, Skeleton):
        return None
    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(base.folder, backend="pil")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the base model {base.id!r} has no image processor: {error}") from error


def pixels(pictures: Sequence[tuple[Any, str]], processor: Any) -> Batch:
    """Decode pictures as a base sees them.

    Args:
        pictures: each a path or the bytes of a file, and its place for messages.
        processor: see `picture_inputs`.
    """
    import torch

    from pefttools.data.pictures import read_picture

    # One by one: no more than one is in memory at its full size.
    found = [
        processor(images=[read_picture(cell, where, _mode(processor))], return_tensors="pt")[PIXELS]
        for cell, where in pictures
    ]
    return {PIXELS: torch.cat(found)}


def a_picture(processor: Any) -> Batch:
    """A grey picture, as a base sees it."""
    from PIL import Image

    grey = Image.new(_mode(processor), (32, 32), 128)
    return {PIXELS: processor(images=[grey], return_tensors="pt")[PIXELS]}


def planned_pixels(config: Any, rows: int) -> Batch:
    """Pictures of a planned batch, for a base that reads pictures alone or a part of one that does."""
    import torch

    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {PIXELS: torch.zeros(rows, config.num_channels, height, width)}


def _mode(processor: Any) -> str:
    """How Pillow names the channels that a processor takes: grey or colour."""
    return "L" if len(processor.image_mean or (0, 0, 0)) == 1 else "RGB"
