"""One process, or several that train together (as ``torchrun`` starts them)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pefttools.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch


def is_main_process() -> bool:
    """Whether this process writes: the first of a distributed run, or the only one."""
    return rank() == 0


def rank() -> int:
    """This process's number among those that train together."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int | None:
    """This process's number among those of its machine; None if it was started alone."""
    given = os.environ.get("LOCAL_RANK")
    return None if given is None else int(given)


def unused_cards(device: torch.device) -> str | None:
    """A warning if one process uses one GPU of several, or does not use a device of another kind; None if neither."""
    import torch

    if device.type == "cpu" and torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        kind = "device" if found is None else found.type
        return f"the {kind} device of this machine is not used: pefttools runs on CUDA and ROCm GPUs and on the CPU"
    cards = torch.cuda.device_count() if device.type == "cuda" else 0
    if world_size() > 1 or cards < 2:
        return None
    return f"{cards} GPUs visible, one used. To train on all: torchrun --nproc_per_node {cards} $(which pefttools) ..."


def check_launch() -> None:
    """Refuse a launch that should have started several processes and started one.

    ``accelerate launch --cpu --num_processes 2`` does so silently; its traces are an address for the processes to
    meet at, without the number of processes.

    Raises:
        ConfigError: this is such a launch.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if on_cpu and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "`accelerate launch --cpu` was told to start several processes but starts only one",
            hint="Use `torchrun --nproc_per_node 2 $(which pefttools) train RECIPE`.",
        )


def check_alike(state: Mapping[str, torch.Tensor]) -> None:
    """Make sure that all processes that trained together ended with the same weights.

    Args:
        state: trained parameters of this process, by name.

    Raises:
        TrainingError: they differ.
    """
    if world_size() == 1:
        return
    import torch

    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    found: list[str] = [""] * world_size()
    torch.distributed.all_gather_object(found, digest.hexdigest())
    if len(set(found)) > 1:
        raise TrainingError(
            f"the {world_size()} processes ended with different weights: nothing is saved",
            hint="Start them on machines of one kind, with the same versions of all packages, and report this.",
        )
