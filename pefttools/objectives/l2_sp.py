"""Weights are pulled to where they began."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step
    from pefttools.tasks.model import Model


class L2SPConfig(ObjectiveConfig):
    """Options of L2-SP."""

    alpha: float = Field(0.01, gt=0, description="factor of half the squared distance from the start")
    beta: float = Field(0.01, ge=0, description="the same for the head")
    head: Literal["zero", "start"] = Field(
        "zero", description="what the head is pulled to: 0, as it is new; or its start, where it goes on from another"
    )


class L2SP(Objective[L2SPConfig]):
    """``L + alpha/2 |w - w0|^2 + beta/2 |w_head|^2``, where ``w0`` are the trained parameters as training begins.

    Of an adapter that begins without an effect this pulls to the base; of one that goes on from another (`from:` in a
    recipe) to that one.

    References:
        Li, X., Grandvalet, Y. and Davoine, F. (2018). Explicit inductive bias for transfer learning with convolutional
        networks. ICML. https://arxiv.org/abs/1802.01483
    """

    name = "l2-sp"
    summary = "regularization: trained weights are pulled to where they began (L2-SP)"
    paper = "https://arxiv.org/abs/1802.01483"
    config = L2SPConfig
    of_weights = True

    def begin(self, model: Model, trained: dict[str, torch.Tensor]) -> None:
        self._start = {name: p.detach().clone() for name, p in trained.items()}

    def term(self, step: Step) -> torch.Tensor:
        import torch

        terms, of_head = [], step.model.of_head()
        for name, parameter in step.trained.items():
            new = name in of_head
            factor = self.options.beta if new else self.options.alpha
            to_zero = new and self.options.head == "zero"
            distance = parameter if to_zero else parameter - self._start[name]
            terms.append(factor / 2 * distance.float().square().sum())
        # One penalty per step, though a step's batch may be run in parts.
        return torch.stack(terms).sum() / step.model.passes

    def state(self) -> dict[str, torch.Tensor]:
        return self._start

    def restore_state(self, state: dict[str, torch.Tensor]) -> None:
        self._start = state
