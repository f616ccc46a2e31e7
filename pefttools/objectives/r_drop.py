"""R-Drop: two passes with different dropout are to agree."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.consistency import both_ways
from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class RDropConfig(ObjectiveConfig):
    """Options of R-Drop."""

    alpha: float = Field(1.0, gt=0, description="factor of the divergence between the two passes")


class RDrop(Objective[RDropConfig]):
    """``(L1 + L2) / 2 + alpha (KL(p1, p2) + KL(p2, p1)) / 2`` for two passes with dropout of their own.

    A model without dropout gives the same answer twice: then only the time is spent, and a warning says so.

    References:
        Liang, X., Wu, L., Li, J., Wang, Y., Meng, Q., Qin, T., Chen, W., Zhang, M. and Liu, T.-Y. (2021). R-Drop:
        regularized dropout for neural networks. NeurIPS. https://arxiv.org/abs/2106.14448
    """

    name = "r-drop"
    summary = "regularization: two passes with different dropout are to agree (R-Drop)"
    paper = "https://arxiv.org/abs/2106.14448"
    config = RDropConfig
    compares = True
    keeps_graph = True
    replaces_loss = True

    def __init__(self, config: RDropConfig) -> None:
        super().__init__(config)
        self._looked = False

    def term(self, step: Step) -> torch.Tensor:
        one, two = step.plain(), step.run(same_dropout=False)
        assert one.logits is not None and two.logits is not None
        self._look(one.logits, two.logits)
        divergence = both_ways(step, one.logits, two.logits)
        return (one.loss + two.loss + self.options.alpha * divergence) / 2

    def _look(self, one: torch.Tensor, two: torch.Tensor) -> None:
        """Warn of a model without dropout, by the first step."""
        import torch
        from torch._subclasses.fake_tensor import is_fake

        if self._looked or is_fake(one):
            return
        self._looked = True
        if torch.equal(one, two):
            warnings.warn(
                "r-drop has no effect: two passes over the first batch gave the same, as this model has no dropout",
                stacklevel=2,
            )
