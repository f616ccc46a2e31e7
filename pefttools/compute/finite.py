"""Watching that losses are finite, without waiting for the card that computes them."""

from __future__ import annotations

import math
from collections import deque

import torch

from pefttools.errors import DivergedError

#: losses that may be on their way from a card
_BEHIND = 8


class FiniteLosses:
    """Is shown every loss, and raises once one of them is not finite.

    On the CPU at once. On a card the loss is fetched while the next passes run, and looked at when it is there: some
    steps later, but with the step that it was of.

    Args:
        float16: the model computes in float16, which overflows.
    """

    def __init__(self, *, float16: bool) -> None:
        self.float16 = float16
        self._coming: deque[tuple[int, torch.Tensor, torch.cuda.Event]] = deque()

    def see(self, step: int, loss: torch.Tensor) -> None:
        """Look at a pass's loss, or send for it.

        Args:
            step: optimizer step that it is part of, the first is 1.
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
        """Look at all that were sent for.

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
