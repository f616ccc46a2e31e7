"""What tasks that read a picture with a head on the base's states have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from pydantic import Field

from pefttools.tasks.head import HeadTask
from pefttools.tasks.number_format import in_format
from pefttools.tasks.task import Batch, TaskConfig
from pefttools.tasks.vision.picture_task import PIXELS, PictureTask, planned_pixels

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


class ImageHeadTask(PictureTask[ConfigT], HeadTask[ConfigT]):
    """One answer per picture."""

    auto_class = "AutoModelForImageClassification"

    def head_kind(self, base: Base) -> str:
        return self.options.head

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        from pefttools.sites import transformers_models

        batch = planned_pixels(transformers_models(model.transformer)[0].config, len(sizes))
        labels = self.planned_example(1, model.labels)["labels"]
        return {**batch, "labels": torch.tensor([labels] * len(sizes))}

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        import torch

        outputs = transformer(pixel_values=in_format(transformer, batch[PIXELS]))
        if head is None:
            return cast("torch.Tensor", outputs.logits)
        states = outputs.last_hidden_state
        return cast("torch.Tensor", head(states, torch.ones(states.shape[:2], device=states.device)))
