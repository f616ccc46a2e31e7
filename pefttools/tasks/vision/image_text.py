"""What tasks whose models embed pictures and texts in one space, such as CLIP, have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pefttools.bases.model_class import TEXT
from pefttools.errors import BaseModelError
from pefttools.methods import Target
from pefttools.tasks.task import Batch, Modality, Task, TaskConfig, TaskModel
from pefttools.tasks.vision.picture_task import a_picture, picture_inputs

if TYPE_CHECKING:
    from pefttools.bases import Base, BaseVariant

ConfigT = TypeVar("ConfigT", bound=TaskConfig)


@dataclass(frozen=True)
class ImageTextInputs:
    """What prepares pictures, and what prepares texts.

    Attributes:
        pictures: transformers' image processor.
        tokenizer: of the texts.
        positions: tokens that every text is padded to, for bases that are trained without a mask, such as SigLIP; None
            for the longest of a batch.
    """

    pictures: Any
    tokenizer: Any
    positions: int | None

    def texts(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Token ids as one batch ``[texts, tokens]``, padded on the right."""
        import torch

        shape = (len(ids), self.positions or max(map(len, ids)))
        found, mask = torch.full(shape, self.tokenizer.pad_token_id), torch.zeros(shape, dtype=torch.long)
        for row, one in enumerate(ids):
            found[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        return {"input_ids": found, "attention_mask": mask} if self.positions is None else {"input_ids": found}

    def save_pretrained(self, folder: Any) -> None:
        """Write transformers' own files of both."""
        self.pictures.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class ImageTextTask(Task[ConfigT]):
    """Pictures and texts are compared by the cosine of their vectors, times the base's own factor.

    The layers that project both into one space are the head: they are fully trained, along with what a method trains.
    """

    modality: ClassVar[Modality] = "image-text"
    auto_class = "AutoModelForZeroShotImageClassification"
    sized_by: ClassVar[str | None] = None
    servable = False

    def processor(self, base: Base) -> ImageTextInputs:
        from pefttools.bases.loading import own_tokenizer
        from pefttools.bases.skeleton import Skeleton

        outline = base if isinstance(base, Skeleton) else Skeleton(base.id, base.folder, base.revision)
        tokenizer = own_tokenizer(base)
        config = outline.configuration()
        # SigLIP's text towers answer from the last position, and were trained on texts that are padded up to it.
        padded = config.model_type.startswith("siglip")
        positions = config.get_text_config().max_position_embeddings if padded else None
        return ImageTextInputs(picture_inputs(base), tokenizer, positions)

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        import transformers

        from pefttools.bases.loading import load_transformer

        transformer, missing = load_transformer(getattr(transformers, self.auto_class), base, variant, reads=TEXT)
        if missing:
            raise BaseModelError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(missing[:3])}")
        if not hasattr(transformer, "get_image_features") or not hasattr(transformer, "logit_scale"):
            raise BaseModelError(f"the base model {base.id!r} does not compare pictures and texts as CLIP does")
        projections = [name for name, _ in transformer.named_children() if name.endswith("_projection")]
        return TaskModel(transformer, None, "model", Target(self.name, "", tuple(projections)), self.processor(base))

    def why_not_merged(self, kind: str, format: str) -> str | None:
        return f"a merged model is compared with its adapter on texts, and the task {self.name!r} reads pictures too"

    def probe(self, processor: Any) -> Batch:
        ids = processor.tokenizer(["a picture"])["input_ids"]
        return {**a_picture(processor.pictures), **processor.texts(ids)}
