"""Optimizers as the planner runs them: the real one if it runs on fake tensors, else one with the same state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pefttools.planning.device import Device

#: bitsandbytes keeps moments of smaller tensors in float32; moments share a scale in blocks of this many
_SMALLEST, _BLOCK = 4096, 256


def planned_optimizer(name: str, trained: Sequence[torch.nn.Parameter], device: Device) -> torch.optim.Optimizer:
    """The optimizer of this name, see `TrainingConfig`."""
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=1e-3, fused=True)
    # Paged moments may leave a GPU altogether; elsewhere paging changes nothing.
    paged = name.startswith("paged") and device.gpu
    return _EightBit(trained, paged=paged)


class _EightBit(torch.optim.Optimizer):
    """Two moments of one byte each, with their scales; its step needs no temporary of a parameter's size."""

    def __init__(self, trained: Sequence[torch.nn.Parameter], *, paged: bool) -> None:
        super().__init__(trained, {})
        self.paged = paged

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not self.state[p]:
                    self.state[p] = self._moments(p)

    def _moments(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        small = p.numel() < _SMALLEST
        state = {}
        for moment in ("state1", "state2"):
            if not (self.paged and not small):
                state[moment] = torch.zeros_like(p, dtype=torch.float32 if small else torch.uint8)
            if not small:
                state[f"absmax_{moment}"] = torch.zeros(-(-p.numel() // _BLOCK))
        return state
