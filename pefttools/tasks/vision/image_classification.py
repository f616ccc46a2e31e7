"""Classification of pictures."""

from __future__ import annotations

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.tasks.labels.class_config import ClassOptions
from pefttools.tasks.labels.one_label import OneLabelTask
from pefttools.tasks.task import Role
from pefttools.tasks.vision.image_head import ImageHeadConfig, ImageHeadTask


class ImageClassificationConfig(ImageHeadConfig, ClassOptions):
    """Options of image classification."""


class ImageClassification(OneLabelTask[ImageClassificationConfig], ImageHeadTask[ImageClassificationConfig]):
    """One label per picture; columns `image` and `label`."""

    name = "image-classification"
    summary = "one label for a picture"
    config = ImageClassificationConfig
    roles = {"image": Role("image"), "label": Role("label", is_input=False)}  # noqa: RUF012

    def check_input(self, table: Table, index: int, row: Row, *, labelled: bool) -> None:
        self.check_image(table, index, row, whole=not labelled)  # in prediction, the other rows must go on
