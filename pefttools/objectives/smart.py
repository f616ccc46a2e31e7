"""Smoothness-inducing regularization and Bregman proximal point optimization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.attack import SteppedAttack, SteppedAttackConfig, root_mean_square
from pefttools.objectives.consistency import both_ways
from pefttools.objectives.objective import WeightedConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class SmartConfig(SteppedAttackConfig, WeightedConfig):
    """Options of SMART."""

    steps: int = Field(1, ge=1, description="passes that the perturbation is enlarged in")
    start: float = Field(
        1e-3, gt=0, description="standard deviation of the first perturbation, as a share of the root mean square"
    )


class Smart(SteppedAttack[SmartConfig]):
    """``L + weight max_d (KL(p(x), p(x + d)) + KL(p(x + d), p(x)))``, with ``d`` within `epsilon`.

    Of the paper's two parts this is the first, smoothness; the second, which keeps a model near to its last one, is not
    here. For numbers the divergence is half the squared difference.

    References:
        Jiang, H., He, P., Chen, W., Liu, X., Gao, J. and Zhao, T. (2020). SMART: robust and efficient fine-tuning for
        pre-trained natural language models through principled regularized optimization. ACL.
        https://arxiv.org/abs/1911.03437
    """

    name = "smart"
    summary = "regularization: the answer is smooth around each input (SMART)"
    paper = "https://arxiv.org/abs/1911.03437"
    config = SmartConfig
    compares = True
    keeps_graph = True

    def term(self, step: Step) -> torch.Tensor:
        import torch

        from pefttools.objectives.perturbation import Perturbation

        plain = step.plain().logits
        assert plain is not None
        fixed, texts = plain.detach(), step.texts
        delta = Perturbation(
            lambda read: texts.without_padding(
                self.options.start * root_mean_square(read, texts) * torch.randn_like(read)
            )
        )
        for _ in range(self.options.steps):
            logits = step.run(delta).logits
            assert logits is not None
            divergence = both_ways(step, fixed, logits)
            (slope,) = torch.autograd.grad(divergence * step.scale, [delta.tensor])
            delta.move(self.enlarged(delta.tensor.detach(), slope, delta.read, texts))
        logits = step.run(delta).logits
        assert logits is not None
        return self.options.weight * both_ways(step, plain, logits)
