"""Moving tensors to a device without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; a copy from RAM to a GPU runs while the CPU prepares what comes next."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From memory that is not pinned, CUDA copies synchronously and makes the CPU wait.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def all_moved(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a batch on a device; see `moved`."""
    return {name: moved(tensor, device) for name, tensor in batch.items()}
