"""Classification of pictures by prompts: the label whose text is nearest to the picture.

References:
    Radford, A. et al. (2021). Learning transferable visual models from natural language supervision. ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import Field, model_validator

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import ConfigError
from pefttools.tasks.labels.class_config import ClassOptions
from pefttools.tasks.labels.one_label import OneLabelTask
from pefttools.tasks.number_format import in_format
from pefttools.tasks.task import Batch, Example, Role, TaskModel
from pefttools.tasks.vision.image_text import ImageTextInputs, ImageTextTask
from pefttools.tasks.vision.picture_task import PIXELS, PictureTask, pixels, planned_pixels

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model


class ZeroShotImageConfig(ClassOptions):
    """Options of classification by prompts."""

    prompt: str = Field(
        "a photo of a {label}.", description="prompt for pictures of each label; {label} stands for its name"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict, description="label -> prompt for its pictures, if it is not `prompt`"
    )

    @model_validator(mode="after")
    def _says_the_label(self) -> ZeroShotImageConfig:
        if "{label}" not in self.prompt:
            raise ValueError("prompt must contain {label}, which stands for the label's name")
        return self


class ZeroShotImageClassification(
    ImageTextTask[ZeroShotImageConfig], OneLabelTask[ZeroShotImageConfig], PictureTask[ZeroShotImageConfig]
):
    """Columns `image` and `label`. The untuned base answers too: that is zero-shot classification."""

    name = "zero-shot-image-classification"
    summary = "the label whose prompt is nearest to a picture"
    config = ZeroShotImageConfig
    modality = "image-text"
    roles = {"image": Role("image"), "label": Role("label", is_input=False)}  # noqa: RUF012

    def planned(self) -> Self:
        """The same without options that need labels; the longest prompt stands for those that are given."""
        longest = max(self.options.prompts.values(), key=len, default="")
        prompt = max(self.options.prompt, f"{longest} {{label}}", key=len)
        return type(self)(self.options.model_copy(update={"class_weights": None, "prompts": {}, "prompt": prompt}))

    def head_kind(self, base: Base) -> str:
        return "prompts"

    def check_input(self, table: Table, index: int, row: Row, *, labelled: bool) -> None:
        self.check_image(table, index, row, whole=not labelled)  # in prediction, the other rows must go on

    def said(self, label: str) -> str:
        """The prompt of a label."""
        return self.options.prompts.get(label) or self.options.prompt.replace("{label}", label)

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        from dataclasses import replace

        from pefttools.heads.prompts import Prompts

        if unknown := sorted(self.options.prompts.keys() - set(labels)):
            raise ConfigError(
                f"task.prompts: {unknown[0]!r} is not a label", hint=f"The labels are: {', '.join(labels[:30])}."
            )
        built = super().build(base, variant, labels)
        limit = built.transformer.config.get_text_config().max_position_embeddings  # type: ignore[union-attr,operator]
        ids = built.processor.tokenizer([self.said(label) for label in labels])["input_ids"]
        for label, one in zip(labels, ids, strict=True):
            if len(one) > limit:
                raise ConfigError(f"the prompt of {label!r} has {len(one)} tokens, and the base takes {limit}")
        return replace(built, head=Prompts(built.processor.texts(ids)), head_kind="prompts")

    def input_batch(self, examples: Sequence[Example], processor: ImageTextInputs) -> Batch:
        return pixels([(one["image"], one["where"]) for one in examples], processor.pictures)

    def probe(self, processor: Any) -> Batch:
        return {PIXELS: super().probe(processor)[PIXELS]}

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        from pefttools.sites import transformers_models

        batch = planned_pixels(transformers_models(model.transformer)[0].config.vision_config, len(sizes))
        return {**batch, "labels": torch.zeros(len(sizes), dtype=torch.long)}

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        assert head is not None
        outputs = transformer(pixel_values=in_format(transformer, batch[PIXELS]), **head())
        return cast("torch.Tensor", outputs.logits_per_image)
