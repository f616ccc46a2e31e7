"""What a prepared training run is predicted to need."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.bases.skeleton import Skeleton
from pefttools.planning.device import Device
from pefttools.planning.plan import Planned, Shape
from pefttools.tasks.task import Example
from pefttools.training.prepare import Prepared


def training_bytes(prepared: Prepared, device: Device, batch: Sequence[Example]) -> int:
    """Predicted peak of a training step.

    Args:
        prepared: what would be trained.
        device: whose kernels and allocator are assumed.
        batch: examples of one forward pass.

    Raises:
        ConfigError: the method can't be planned.
    """
    recipe, task = prepared.recipe, prepared.task
    lengths = task.sizes(batch)
    settings = recipe.training
    base = Skeleton(prepared.base.id, prepared.base.folder, prepared.base.revision)
    # As it was settled: rows determine what options leave open.
    settled = {"name": task.name, **task.options.model_dump(mode="json", exclude_defaults=True)}
    planned = Planned(
        base, settled, recipe.method, recipe.variant, max(len(prepared.labels), 1), device, recipe.objective
    )
    shape = Shape(
        batch_size=len(lengths) * prepared.passes,
        length=max(lengths),
        accumulation=settings.microbatches,
        precision=settings.precision,
        gradient_checkpointing=settings.gradient_checkpointing,
        optimizer=settings.optimizer,
        averaged=settings.averaging is not None,
    )
    # Rows of such a task may hold several texts, some shorter than the longest, which is their size.
    like = task.collate(batch, prepared.examples.processor) if task.loss_over_batch else None
    return planned.training_bytes(shape, lengths, like)
