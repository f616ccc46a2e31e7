"""One optimizer step as in training, outside of a trainer: to measure it, or to see whether it fits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttools.compute.moving import all_moved
from pefttools.tasks.task import Example
from pefttools.tuned import TunedModel


def optimizer_step(
    model: TunedModel, examples: Sequence[Example], parts: int, optimizer: torch.optim.Optimizer
) -> None:
    """Forward, backward and a step that changes the trained parameters.

    Args:
        model: in training mode.
        examples: of one forward pass.
        parts: forward passes per step; no more than two are run, since the others need what the second needs. Only
            one is run if the task's loss is over the whole batch.
        optimizer: optimizer of the trained parameters.
    """
    for _ in range(
        1 if model.spec.task.loss_over_batch else min(parts, 2)
    ):  # from the second pass on there are gradients in addition to the activations
        collated = model.spec.task.training_batch(model, examples)
        batch = all_moved(collated, model.device)
        labels = batch.pop("labels")
        model(**batch, targets=labels).backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()
