"""Label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class LabelSmoothingConfig(ObjectiveConfig):
    """Options of label smoothing."""

    share: float = Field(0.1, gt=0, lt=1, description="share of each target that is spread evenly over all outcomes")


class LabelSmoothing(Objective[LabelSmoothingConfig]):
    """``-(1 - share) log p - share * mean(log p_k)`` instead of the cross-entropy ``-log p``.

    For every task whose answers are outcomes: tokens, tags, spans and choices too.

    References:
        Szegedy, C., Vanhoucke, V., Ioffe, S., Shlens, J. and Wojna, Z. (2016). Rethinking the Inception architecture
        for computer vision. CVPR. https://arxiv.org/abs/1512.00567
    """

    name = "label-smoothing"
    summary = "loss: a share of each target is spread over all outcomes (label smoothing)"
    paper = "https://arxiv.org/abs/1512.00567"
    config = LabelSmoothingConfig
    shapes_loss = True

    def loss(self, logits: torch.Tensor, step: Step) -> torch.Tensor:
        found, labels = step.task.log_probabilities(logits, step.labels)
        # What a row can't answer, as a choice that it does not have, is no outcome of it.
        possible = found.isfinite()
        evenly = found.masked_fill(~possible, 0.0).sum(-1) / possible.sum(-1)
        right = found.gather(-1, labels[:, None])[:, 0]
        total = -((1 - self.options.share) * right + self.options.share * evenly).sum()
        return total / step.task.items(step.labels, step.num_items)
