"""A language head over a large vocabulary, a few rows of logits at a time.

The gradients of each piece are computed in the forward pass, as soon as its logits exist, and the logits are dropped:
the idea of Liger's fused linear cross-entropy (https://arxiv.org/abs/2410.10989), for any module as the head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, log_softmax

from pefttools.tasks.task import IGNORE

Project = Callable[[torch.Tensor], torch.Tensor]


def without_head(head: nn.Module, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, bool]:
    """Run a model whose head passes its input through.

    Args:
        head: a part of the model.
        run: gives the model's logits.

    Returns:
        Hidden states ``[rows, tokens, hidden]``, and True; False if the model does something to its logits after
        the head, as some scale or cap them: then they can't be computed in pieces.
    """
    read: list[torch.Tensor] = []

    def pass_on(states: torch.Tensor) -> torch.Tensor:
        read.append(states)
        return states

    own, before, after = vars(head).get("forward"), head._forward_pre_hooks, head._forward_hooks
    head.forward = pass_on
    # Hooks of the head are a part of it: they run when a piece goes through it.
    head._forward_pre_hooks, head._forward_hooks = OrderedDict(), OrderedDict()
    try:
        states = run()
    finally:
        head._forward_pre_hooks, head._forward_hooks = before, after
        if own is None:
            del head.forward
        else:
            head.forward = own
    return states, bool(read) and states.untyped_storage() is read[0].untyped_storage()


def before_head(
    transformer: nn.Module, run: Callable[[], torch.Tensor], apart: MutableMapping[nn.Module, bool]
) -> tuple[torch.Tensor, nn.Module | None]:
    """What a model's language head would read, and the head; logits and None if both can't be told apart.

    Args:
        transformer: the model.
        run: gives its logits.
        apart: for each model that was run, whether they can; it is filled in.
    """
    if apart.get(transformer, not _adds_a_bias(transformer)):
        head: nn.Module = transformer.get_output_embeddings()  # type: ignore[operator]
        states, apart[transformer] = without_head(head, run)
        if apart[transformer]:
            return states, head
    return run(), None


def _adds_a_bias(transformer: nn.Module) -> bool:
    """Whether a bias follows the language head, as in BART and its relatives, so that its output is not the logits."""
    return any(name.endswith("final_logits_bias") for name, _ in transformer.named_buffers())


def places(labels: torch.Tensor) -> torch.Tensor:
    """Where there is a label, ``[n]``, in labels ``[rows, tokens]``, flattened."""
    return (labels.flatten() != IGNORE).nonzero().squeeze(1)


def labelled_rows(
    rows: torch.Tensor, labels: torch.Tensor, where: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows ``[n, size]`` of ``[rows, tokens, size]`` that have a label, and their labels ``[n]``.

    Args:
        rows: states or logits.
        labels: ``[rows, tokens]``.
        where: as `places` gives it; None to look it up, for which the CPU has to wait for the GPU.
    """
    flat = labels.flatten()
    index = places(labels) if where is None else where
    return rows.flatten(0, 1).index_select(0, index), flat.index_select(0, index)


def outcomes(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the probabilities at places with a label, ``[n, outcomes]``, and the labels ``[n]``."""
    rows, wanted = labelled_rows(logits, labels)
    return rows.float().log_softmax(-1), wanted


def mean(total: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
    """A summed loss divided by the number of labels, of this batch or of all that make one step."""
    return total / ((labels != IGNORE).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


def scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each row, and whether its most likely token is the right one."""
    return cross_entropy(logits.float(), labels, reduction="none"), logits.argmax(-1) == labels


def chunked_cross_entropy(states: torch.Tensor, labels: torch.Tensor, head: nn.Module, rows: int) -> torch.Tensor:
    """Summed cross-entropy of ``head(states)``.

    Args:
        states: ``[n, hidden]``.
        labels: ``[n]``; every one counts.
        head: gives logits ``[n, vocabulary]``.
        rows: maximum number of rows of logits in memory at a time.
    """
    trained = [p for p in head.parameters() if p.requires_grad]
    total: torch.Tensor = _ChunkedCrossEntropy.apply(states, labels, head, rows, *trained)  # type: ignore[no-untyped-call]
    return total


def starts(states: torch.Tensor, rows: int) -> Sequence[int]:
    """Where the pieces begin."""
    starts = range(0, len(states), rows)
    # Without values, when only memory is planned, all pieces are alike.
    return [*starts[:2], starts[-1]] if is_fake(states) and len(starts) > 3 else starts


def added(total: torch.Tensor | None, gradient: torch.Tensor) -> torch.Tensor:
    """A sum of gradients, in place in the first.

    A linear layer's gradient is a view, so the first is taken out of it: autograd adds up a parameter's gradients in
    place only if the first is not a view; otherwise tied embeddings would have three of them in memory at once.
    """
    if total is not None:
        return total.add_(gradient)
    # Not through a storage object in Python, which would be one more reference to it.
    own: torch.Tensor = torch.ops.aten.set_.source_Tensor(gradient.new_empty(0), gradient)
    return own


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, labels: torch.Tensor, head: Project, rows: int, *trained: torch.Tensor
    ) -> torch.Tensor:
        wanted = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        of_states = torch.empty_like(states) if wanted[0] else None
        of_trained: list[torch.Tensor | None] = [None] * len(trained)
        for start in starts(states, rows):
            part = slice(start, start + rows)
            with torch.enable_grad():
                piece = states[part].detach().requires_grad_(wanted[0])
                logits = head(piece)
            likely = log_softmax(logits.detach().float(), dim=-1)
            total -= likely.gather(1, labels[part, None]).sum()
            inputs = [piece] if wanted[0] else []
            inputs += [p for p, needed in zip(trained, wanted[1:], strict=True) if needed]
            if not inputs:
                continue
            # The loss's gradient with respect to the logits, in place: probabilities, minus one at the right token.
            outer = likely.exp_().scatter_add_(1, labels[part, None], likely.new_full((len(likely), 1), -1.0))
            found = list(torch.autograd.grad(logits, inputs, outer.to(logits.dtype)))
            del logits, likely, outer  # before the next piece's
            if of_states is not None:
                of_states[part] = found.pop(0)
            for index, needed in enumerate(wanted[1:]):
                if needed:
                    of_trained[index] = added(of_trained[index], found.pop(0))  # no variable keeps a piece's alive
        ctx.gradients = (of_states, *of_trained)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_states, *of_trained = (None if one is None else one.mul_(outer.to(one.dtype)) for one in ctx.gradients)
        ctx.gradients = ()
        return of_states, None, None, None, *of_trained
