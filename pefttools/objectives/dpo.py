"""Direct preference optimization: the better of two answers becomes more likely than the worse one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class DPOConfig(ObjectiveConfig):
    """Options of DPO."""

    beta: float = Field(0.1, gt=0, description="how strongly the model is held to the one that training starts from")


class DPO(Objective[DPOConfig]):
    """``-log sigmoid(beta (g(chosen) - g(rejected)))``, where ``g(y) = log p(y) - log p0(y)``, in place of the loss.

    ``p0`` is the model that training starts from: the base without an adapter, or the artifact in `from:`. It reads
    each training row once, in eval mode, before the training begins; the results are kept in the cache, and only one
    model is in memory during training.

    References:
        Rafailov, R., Sharma, A., Mitchell, E., Ermon, S., Manning, C. D. and Finn, C. (2023). Direct preference
        optimization: your language model is secretly a reward model. NeurIPS. https://arxiv.org/abs/2305.18290
    """

    name = "dpo"
    summary = "replaces the loss: the better of two answers is to gain more than the worse one (DPO)"
    paper = "https://arxiv.org/abs/2305.18290"
    config = DPOConfig
    ranks_answers = True
    reads_start = True
    replaces_loss = True
    keeps_graph = True

    def __init__(self, config: DPOConfig) -> None:
        super().__init__(config)
        self._start: torch.Tensor | None = None

    def refer(self, likelihoods: torch.Tensor) -> None:
        self._start = likelihoods

    def term(self, step: Step) -> torch.Tensor:
        from torch.nn.functional import logsigmoid

        (chosen, _), (rejected, _) = step.plain().answers(), step.rejected().answers()
        margin = chosen - rejected
        if step.rows is not None:  # else it is a step that is only measured
            assert self._start is not None, "the model that training starts from was not asked"
            start = self._start[step.rows.cpu()].to(margin)
            margin = margin - (start[:, 0] - start[:, 1])
        return -step.row_mean(logsigmoid(self.options.beta * margin))
