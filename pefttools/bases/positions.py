"""How long a text a base model can take."""

from __future__ import annotations

from typing import Any

from pefttools.bases.base import variants
from pefttools.bases.locate import Base
from pefttools.bases.model_class import longest_text, longest_written
from pefttools.bases.skeleton import Skeleton


def text_limit(base: Base) -> int | None:
    """Number of tokens that a base has positions for; None if its configuration sets no limit.

    Raises:
        BaseModelError: no configuration, or one of no known model.
    """
    from transformers import AutoModel

    outline = base if isinstance(base, Skeleton) else Skeleton(base.id, base.folder, base.revision)
    config = outline.configuration()
    longest = longest_text(config)
    if longest is None or config.is_encoder_decoder:
        return longest  # BART and its relatives have padding's positions in addition to those
    model, _ = outline.transformer(AutoModel, variants.get("float32")())
    return longest - first_position(model)


def written_limit(base: Base) -> int | None:
    """The same for what the decoder of an encoder-decoder base writes."""
    outline = base if isinstance(base, Skeleton) else Skeleton(base.id, base.folder, base.revision)
    return longest_written(outline.configuration())


def first_position(backbone: Any) -> int:
    """Position of a text's first token: 0, except for RoBERTa and its relatives, which begin after the padding's."""
    padding = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
