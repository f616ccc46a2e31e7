"""Virtual adversarial training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.attack import Attack, AttackConfig, direction
from pefttools.objectives.objective import WeightedConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class VATConfig(AttackConfig, WeightedConfig):
    """Options of virtual adversarial training."""

    probe: float = Field(
        0.01, gt=0, description="norm of the change by which the direction is found, as a share as `epsilon`"
    )
    steps: int = Field(1, ge=1, description="passes in which the direction is found (power iteration)")


class VirtualAdversarial(Attack[VATConfig]):
    """``L + weight KL(p(x), p(x + epsilon |x| d))``, with ``d`` the direction that changes the answer most.

    ``d`` begins at random; each step replaces it by the unit gradient of ``KL(p(x), p(x + probe |x| d))``.
    No label is read. ``p(x)`` is a constant.

    References:
        Miyato, T., Maeda, S., Koyama, M. and Ishii, S. (2018). Virtual adversarial training: a regularization method
        for supervised and semi-supervised learning. IEEE TPAMI. https://arxiv.org/abs/1704.03976
    """

    name = "vat"
    summary = "virtual adversarial training: the answer is to stay where the input changes a little"
    paper = "https://arxiv.org/abs/1704.03976"
    config = VATConfig
    compares = True

    def term(self, step: Step) -> torch.Tensor:
        import torch

        from pefttools.objectives.step import Perturbation

        options, texts = self.options, step.texts
        plain = step.plain().logits
        assert plain is not None
        plain = plain.detach()

        def scaled(way: torch.Tensor, read: torch.Tensor, share: float) -> torch.Tensor:
            return share * texts.norm(texts.without_padding(read)) * way

        delta = Perturbation(lambda read: scaled(direction(torch.randn_like(read), texts), read, options.probe))
        for number in range(options.steps):
            logits = step.run(delta).logits
            assert logits is not None
            (slope,) = torch.autograd.grad(step.divergence(plain, logits) * step.scale, [delta.tensor])
            last = number + 1 == options.steps
            delta.move(scaled(direction(slope, texts), delta.read, options.epsilon if last else options.probe))
        logits = step.run(delta).logits
        assert logits is not None
        return options.weight * step.divergence(plain, logits)
