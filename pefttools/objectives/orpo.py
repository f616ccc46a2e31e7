"""Odds ratio preference optimization: chosen answers are learned, and rejected ones become less likely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.objective import Objective, WeightedConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step

#: largest mean log-probability of a token: of an answer that is certain, the odds are infinite
_CERTAIN = -1e-6


class ORPOConfig(WeightedConfig):
    """Options of ORPO."""

    weight: float = Field(0.1, gt=0, description="factor of the term, called lambda in the paper")


class ORPO(Objective[ORPOConfig]):
    """``L - weight log sigmoid(log odds(chosen) - log odds(rejected))``, where ``odds = p / (1 - p)``.

    ``p`` is the geometric mean of the probabilities of an answer's tokens, and ``L`` the loss on the chosen answer. No
    other model is needed: it trains a base in one go, without a training on chosen answers before.

    References:
        Hong, J., Lee, N. and Thorne, J. (2024). ORPO: monolithic preference optimization without reference model.
        EMNLP. https://arxiv.org/abs/2403.07691
    """

    name = "orpo"
    summary = "chosen answers are learned, and are to have higher odds than rejected ones (ORPO)"
    paper = "https://arxiv.org/abs/2403.07691"
    config = ORPOConfig
    ranks_answers = True
    keeps_graph = True

    def term(self, step: Step) -> torch.Tensor:
        from torch.nn.functional import logsigmoid

        chosen, rejected = (_log_odds(*one.answers()) for one in (step.plain(), step.rejected()))
        return -self.options.weight * step.row_mean(logsigmoid(chosen - rejected))


def _log_odds(likelihoods: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    mean = (likelihoods / tokens.clamp(min=1)).clamp(max=_CERTAIN)
    return mean - (-mean.expm1()).log()
