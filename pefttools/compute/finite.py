"""Checking that losses are finite, without waiting for the GPU that computes them."""

from __future__ import annotations

import math
from collections import deque

import torch

from pefttools.errors import DivergedError

#: maximum number of losses that may be on their way from a GPU
_BEHIND = 8


class FiniteLosses:
    """Is given every loss, and raises once one of them is not finite.

    On the CPU at once. On a GPU the loss is fetched while the next passes run, and checked when it arrives: some steps
    later, but reported with its own step.

    Args:
        float16: whether the model computes in float16, which overflows.
    """

    def __init__(self, *, float16: bool) -> None:
        self.float16 = float16
        self._coming: deque[tuple[int, torch.Tensor, torch.cuda.Event]] = deque()

    def see(self, step: int, loss: torch.Tensor) -> None:
        """Check a pass's loss, or start to fetch it.

        Args:
            step: optimizer step that it is part of, starting at 1.
            loss: one number.

        Raises:
            DivergedError: it, or one before, is not finite.
        """
        if loss.device.type != "cuda":
            self._check(step, float(loss))
            return
        here = torch.empty((), dtype=loss.dtype, pin_memory=True)
        here.copy_(loss.detach(), non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._coming.append((step, here, arrived))
        while self._coming and (len(self._coming) > _BEHIND or self._arrived()):
            self._next()

    def settle(self) -> None:
        """Check all losses that are being fetched.

        Raises:
            DivergedError: one of them is not finite.
        """
        while self._coming:
            self._next()

    def _arrived(self) -> bool:
        return bool(self._coming[0][2].query())  # type: ignore[no-untyped-call]

    def _next(self) -> None:
        step, here, arrived = self._coming.popleft()
        arrived.synchronize()
        self._check(step, float(here))

    def _check(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(step, loss, float16=self.float16)
