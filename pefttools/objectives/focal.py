"""Focal loss, and weights by the effective number of rows of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class FocalConfig(ObjectiveConfig):
    """Options of the focal loss."""

    gamma: float = Field(2.0, ge=0, description="how little well-learned rows count; 0: plain cross-entropy")


class Focal(Objective[FocalConfig]):
    """``-(1 - p)^gamma log p`` instead of the cross-entropy ``-log p``, with ``p`` the probability of the right answer.

    References:
        Lin, T.-Y., Goyal, P., Girshick, R., He, K. and Dollár, P. (2017). Focal loss for dense object detection. ICCV.
        https://arxiv.org/abs/1708.02002
    """

    name = "focal"
    summary = "loss: well-learned rows count little (focal loss)"
    paper = "https://arxiv.org/abs/1708.02002"
    config = FocalConfig
    shapes_loss = True

    def loss(self, logits: torch.Tensor, step: Step) -> torch.Tensor:
        found, labels = step.task.log_probabilities(logits, step.labels)
        right = found.gather(-1, labels[:, None])
        total = -((1 - right.exp()) ** self.options.gamma * right).sum()
        return total / step.task.items(step.labels, step.num_items)
