"""Projected gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.objectives.attack import SteppedAttack, SteppedAttackConfig
from pefttools.objectives.objective import WeightedConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.inputs import Change
    from pefttools.objectives.step import Step


class PGDConfig(SteppedAttackConfig, WeightedConfig):
    """Options of PGD."""


class PGD(SteppedAttack[PGDConfig]):
    """``L(x) + weight * L(x + d)``, with ``d`` enlarged in `steps` steps from 0 and kept within `epsilon`.

    Each step adds ``step_size |x| g / |g|``, where ``g`` is the gradient at ``x + d``; then ``d`` is shortened to
    ``epsilon |x|`` if it is longer. `steps` + 1 passes, `steps` + 1 backward passes.

    References:
        Madry, A., Makelov, A., Schmidt, L., Tsipras, D. and Vladu, A. (2018). Towards deep learning models resistant to
        adversarial attacks. ICLR. https://arxiv.org/abs/1706.06083
    """

    name = "pgd"
    summary = "adversarial training: several steps against the model (PGD)"
    paper = "https://arxiv.org/abs/1706.06083"
    config = PGDConfig
    attacks = True
    reads_slope = True

    def term(self, step: Step) -> torch.Tensor:
        return self.options.weight * step.run(self.attack(step)).loss

    def attack(self, step: Step) -> Change:
        import torch

        from pefttools.objectives.perturbation import Perturbation

        slope = step.slope()  # at 0
        delta = Perturbation(lambda read: self.enlarged(torch.zeros_like(read), slope, read, step.texts))
        for _ in range(self.options.steps - 1):
            loss = step.run(delta).loss
            (slope,) = torch.autograd.grad(loss * step.scale, [delta.tensor])
            delta.move(self.enlarged(delta.tensor.detach(), slope, delta.read, step.texts))
        return delta
