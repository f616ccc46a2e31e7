"""Texts as vectors, by a tuned encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pefttools.errors import ConfigError
from pefttools.predicting import table_of
from pefttools.tasks.cuts import Cuts, cuts_of
from pefttools.tasks.task import Progress
from pefttools.tuned import TunedModel

if TYPE_CHECKING:
    import torch


def check_encoder(model: TunedModel) -> None:
    """Refuse a model that does not give vectors for texts.

    Raises:
        ConfigError: it does not.
    """
    if not model.task.embeds or model.task.modality != "text":
        raise ConfigError(
            f"an encoder of passages gives a vector for a text; the task {model.task.name!r} does not",
            hint="`pefttools tasks` lists the task for it.",
        )
    if model.spec.knowledge is not None:
        raise ConfigError("an encoder of passages can't itself look passages up")


def embed(
    model: TunedModel, texts: Sequence[str], *, batch_size: int = 64, progress: Progress | None = None
) -> tuple[torch.Tensor, Cuts]:
    """Vectors of length one, ``[texts, numbers]`` in float32, and which texts were too long for the encoder.

    Args:
        model: the encoder; see `check_encoder`.
        texts: what to embed.
        batch_size: texts at a time.
        progress: told of finished texts.
    """
    import numpy as np
    import torch

    task = model.task
    table = table_of(texts, task)
    task.check(table, model.labels, labelled=False)
    examples = task.encode(table, model.processor, model.labels, labelled=False)
    predictions = task.predict(model, examples, batch_size=batch_size, progress=progress)
    vectors = torch.from_numpy(np.stack([np.asarray(one.answer, dtype=np.float32) for one in predictions]))
    return torch.nn.functional.normalize(vectors, dim=-1), cuts_of(examples, task)
