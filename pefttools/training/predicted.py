"""What a training that is prepared is predicted to need."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.bases.skeleton import Skeleton
from pefttools.planning.device import Device
from pefttools.planning.plan import Planned, Shape
from pefttools.training.prepare import Prepared


def training_bytes(prepared: Prepared, device: Device, lengths: Sequence[int]) -> int:
    """Predicted peak of a training step.

    Args:
        prepared: what would be trained.
        device: whose kernels and allocator are assumed.
        lengths: tokens of each text of one forward pass.

    Raises:
        ConfigError: the method can't be planned.
    """
    recipe = prepared.recipe
    settings = recipe.training
    base = Skeleton(prepared.base.id, prepared.base.folder, prepared.base.revision)
    # As it was settled: rows say what options leave open.
    task = {"name": prepared.task.name, **prepared.task.options.model_dump(mode="json", exclude_defaults=True)}
    planned = Planned(base, task, recipe.method, recipe.variant, max(len(prepared.labels), 1), device)
    shape = Shape(
        batch_size=len(lengths) * settings.microbatches,
        length=max(lengths),
        accumulation=settings.microbatches,
        precision=settings.precision,
        gradient_checkpointing=settings.gradient_checkpointing,
        optimizer=settings.optimizer,
    )
    return planned.training_bytes(shape, lengths)
