"""Whether an adapter answers at all: finite weights may still give non-finite outputs."""

from __future__ import annotations

import torch

from pefttools.artifact.load import find_base, load_verified
from pefttools.artifact.reading import Held
from pefttools.errors import ArtifactError


def check_answers(held: Held, base: str | None = None) -> None:
    """Load an adapter on its base and run it once.

    Args:
        held: the artifact.
        base: path of the base model; None for the one in the manifest.

    Raises:
        ArtifactError: NaN or infinite answers, or weights that do not fit.
        BaseModelError: the base is a different one, or can't be found.
    """
    model = load_verified(held.folder, held.manifest, find_base(held.manifest, base), device=torch.device("cpu"))
    answer = model.run_batch(model.spec.task.probe(model.processor))
    if not answer.isfinite().all():
        raise ArtifactError(
            f"the adapter {held.folder} gives non-finite values (NaN or infinite) for an input", hint="Train it again."
        )
