"""What objectives share that compare the answers of two passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


def both_ways(step: Step, logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The divergence of one answer from the other, and the other way round, added up."""
    return step.divergence(logits, others) + step.divergence(others, logits)
