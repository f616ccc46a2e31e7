"""Log-probabilities of tokens under a language head over a large vocabulary, a few rows of logits at a time.

Unlike a summed loss, whose gradients may be taken while it is computed, what each token counts is known in the backward
pass alone: the logits of a piece are computed again there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax

from pefttools.tasks.language.language_head import added, starts


def log_probabilities(states: torch.Tensor, labels: torch.Tensor, head: nn.Module | None, rows: int) -> torch.Tensor:
    """The logarithm of each label's probability, ``[n]`` in float32 or more.

    Args:
        states: ``[n, hidden]``; without a head these are the logits.
        labels: ``[n]``.
        head: gives logits ``[n, vocabulary]``; None: they are given.
        rows: maximum number of rows of logits in memory at a time.
    """
    if head is None:
        return _of_labels(_likely(states), labels)
    trained = [p for p in head.parameters() if p.requires_grad]
    each: torch.Tensor = _LogProbabilities.apply(states, labels, head, rows, *trained)  # type: ignore[no-untyped-call]
    return each


def _likely(logits: torch.Tensor) -> torch.Tensor:
    return log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _of_labels(likely: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return likely.gather(1, labels[:, None]).squeeze(1)


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, labels: torch.Tensor, head: nn.Module, rows: int, *trained: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(states, labels)
        ctx.head, ctx.rows, ctx.trained = head, rows, trained
        kind = states.device.type
        ctx.autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        each = states.new_empty(len(states), dtype=torch.promote_types(states.dtype, torch.float32))
        for start in starts(states, rows):
            part = slice(start, start + rows)
            each[part] = _of_labels(_likely(head(states[part])), labels[part])
        return each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, labels = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
        of_states = torch.empty_like(states) if wanted[0] else None
        of_trained: list[torch.Tensor | None] = [None] * len(ctx.trained)
        again = torch.autocast(states.device.type, ctx.autocast, enabled=ctx.autocast is not None)
        for start in starts(states, ctx.rows):
            part = slice(start, start + ctx.rows)
            with torch.enable_grad(), again:
                piece = states[part].detach().requires_grad_(wanted[0])
                logits = ctx.head(piece)
            inputs = [piece] if wanted[0] else []
            inputs += [p for p, needed in zip(ctx.trained, wanted[1:], strict=True) if needed]
            # The gradient with respect to the logits, in place: one at the label minus the probabilities, times outer.
            slope = _likely(logits.detach()).exp_().neg_()
            slope.scatter_add_(1, labels[part, None], slope.new_ones(len(slope), 1)).mul_(outer[part, None])
            found = list(torch.autograd.grad(logits, inputs, slope.to(logits.dtype)))
            del logits, slope  # before the next piece's
            if of_states is not None:
                of_states[part] = found.pop(0)
            for index, needed in enumerate(wanted[1:]):
                if needed:
                    of_trained[index] = added(of_trained[index], found.pop(0))
        return of_states, None, None, None, *of_trained
