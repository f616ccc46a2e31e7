"""Planning a training that is prepared, for the device that it would run on."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch

from pefttools.bases.skeleton import Skeleton
from pefttools.planning.device import CPU, Device, gpu_of
from pefttools.planning.plan import Planned, Shape
from pefttools.training.prepare import Prepared


def this_device() -> tuple[Device, int]:
    """The device of this process, and the bytes that it has for tensors; a GPU's are what others have left free."""
    if not torch.cuda.is_available():
        return CPU, psutil.virtual_memory().total
    free, total = torch.cuda.mem_get_info()  # the context is there by now
    major, _ = torch.cuda.get_device_capability()
    device = gpu_of("gpu", torch.cuda.get_device_name(), total, major)
    return device, int((free + torch.cuda.memory_reserved() - device.workspace) / (1 + device.slack))


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
    planned = Planned(base, recipe.task, recipe.method, recipe.variant, max(len(prepared.labels), 1), device)
    shape = Shape(
        batch_size=len(lengths) * settings.parts,
        length=max(lengths),
        accumulation=settings.parts,
        precision=settings.precision,
        gradient_checkpointing=settings.gradient_checkpointing,
        optimizer=settings.optimizer,
    )
    return planned.training_bytes(shape, lengths)
