"""Gradients that are taken as soon as a pass has been run, so that its activations are freed before the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable


class Collected:
    """The gradients of several passes, added up.

    Memory is that of one pass's activations, and of one more gradient per trained parameter.

    Args:
        trained: parameters.
        scale: losses are multiplied by it while gradients are taken, so that those in float16 do not vanish.
    """

    def __init__(self, trained: Sequence[torch.Tensor], scale: float = 1.0) -> None:
        self._trained = list(trained)
        self._scale = scale
        self._sums: list[torch.Tensor | None] = [None] * len(self._trained)
        self._value: torch.Tensor | None = None

    def add(self, loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Add a loss, whose graph is freed.

        Args:
            loss: a scalar.
            inputs: tensors whose gradients are wanted.

        Returns:
            Those gradients, in float32, times `scale`: their lengths are of no account.
        """
        wanted = [*self._trained, *inputs]
        with _without_hooks(self._trained):
            found: Sequence[torch.Tensor | None] = torch.autograd.grad(loss * self._scale, wanted, allow_unused=True)
        for index, gradient in enumerate(found[: len(self._trained)]):
            if gradient is None:
                continue
            kept = self._sums[index]
            self._sums[index] = gradient if kept is None else kept.add_(gradient)
        self._value = loss.detach() if self._value is None else self._value + loss.detach()
        rest = zip(inputs, found[len(self._trained) :], strict=True)
        return [torch.zeros_like(given) if one is None else one.float() for given, one in rest]

    def change(self, chain: Callable[[int, torch.Tensor], None]) -> None:
        """Change the gradients that were added so far.

        Args:
            chain: called with the number of each parameter and its gradient, which it changes in place.
        """
        for number, gradient in enumerate(self._sums):
            if gradient is not None:
                chain(number, gradient)

    def total(self) -> torch.Tensor:
        """The sum of the losses; its backward pass hands out the gradients."""
        assert self._value is not None, "nothing was added"
        pairs = [(p, g) for p, g in zip(self._trained, self._sums, strict=True) if g is not None]
        self._sums = []
        gradients = [gradient for _, gradient in pairs]
        total: torch.Tensor = _Known.apply(self._value, gradients, self._scale, *[p for p, _ in pairs])  # type: ignore[no-untyped-call]
        return total


@contextmanager
def _without_hooks(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """What methods do to a gradient is done once, when it is handed out, and not when it is taken too."""
    hooks = [(one, one._backward_hooks) for one in parameters if one._backward_hooks]
    try:
        for parameter, _ in hooks:
            parameter._backward_hooks = None
        yield
    finally:
        for parameter, own in hooks:
            parameter._backward_hooks = own


class _Known(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, gradients: list[torch.Tensor], scale: float, *trained: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients, ctx.scale = gradients, scale
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, *[gradient.mul_(outer / ctx.scale) for gradient in gradients]
