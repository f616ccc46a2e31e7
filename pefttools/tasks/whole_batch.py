"""A batch with a single loss over all its rows, computed in parts that fit into memory.

References:
    Gao, L., Zhang, Y., Han, J. and Callan, J. (2021). Scaling deep contrastive learning batch size under memory limited
    setup. RepL4NLP (GradCache).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pefttools.tasks.task import Task
from pefttools.tasks.types import Batch


def logits_in_parts(
    task: Task[Any], transformer: nn.Module, head: nn.Module | None, batch: Batch, parts: int
) -> torch.Tensor:
    """The logits of a batch without its labels, of which no more than one part's activations are kept.

    Each part runs again in the backward pass, with the same dropout: loss and gradients are those of the whole batch.

    Args:
        task: a task whose loss is over the whole batch.
        transformer: the model's transformer.
        head: the model's head.
        batch: see `Task.passes`.
        parts: of each pass's rows.
    """

    def run(part: Batch) -> torch.Tensor:
        return task.logits(transformer, head, part)

    found = []
    for one in task.passes(batch):
        pieces = [tensor.chunk(parts) for tensor in one.values()]
        for piece in zip(*pieces, strict=True):
            found.append(checkpoint(run, dict(zip(one, piece, strict=True)), use_reentrant=False))
    return torch.cat(found)
