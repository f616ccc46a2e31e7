"""What tasks that read a sound with a head on the base's states have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from pydantic import Field

from pefttools.data import Table
from pefttools.tasks.audio.sound_task import SoundConfig, SoundTask
from pefttools.tasks.head import HeadTask
from pefttools.tasks.number_format import in_format
from pefttools.tasks.one_file import OneFileTask
from pefttools.tasks.task import Batch, Example, TaskModel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.model import Model


class AudioHeadConfig(SoundConfig):
    """Options of every such task."""

    head: Literal["model", "mean"] = Field(
        "model",
        description="model: the model's own head; mean: the mean of the sound's states, without those of padding, "
        "and one linear layer",
    )


ConfigT = TypeVar("ConfigT", bound=AudioHeadConfig)


class AudioHeadTask(OneFileTask[ConfigT], SoundTask[ConfigT], HeadTask[ConfigT]):
    """One answer per sound, in the column `audio`."""

    auto_class = "AutoModelForAudioClassification"
    # These drop whole layers and stretches of sound at random, with a generator that no seed reaches.
    config_changes = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}  # noqa: RUF012

    def head_kind(self, base: Base) -> str:
        return self.options.head

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        from pefttools.tasks.audio.sound_encoder import settle_encoder

        built = super().build(base, variant, labels, head_kind)
        settle_encoder(built.transformer, built.processor.positions)
        return built

    def file_example(self, table: Table, index: int) -> Example:
        return self.sound_example(table, index)

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        batch = self.planned_sounds(model.processor, sizes)
        batch["labels"] = torch.tensor([self.planned_example(1, model.labels)["labels"]] * len(sizes))
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:

        from pefttools.sites import transformers_models
        from pefttools.tasks.audio.sound_encoder import state_mask, takes_mask

        (name,) = self.reads & batch.keys()
        mask = batch.get("attention_mask")
        given = {name: in_format(transformer, batch[name])}
        if mask is not None and takes_mask(transformers_models(transformer)[0].config):
            given["attention_mask"] = mask
        outputs = transformer(**given)
        if head is None:
            return cast("torch.Tensor", outputs.logits)
        states = outputs.last_hidden_state
        return cast("torch.Tensor", head(states, state_mask(transformer, mask, states)))
