"""Free large-batch adversarial training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.objectives.attack import SteppedAttack, SteppedAttackConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class FreeLB(SteppedAttack[SteppedAttackConfig]):
    """``1/K sum_k L(x + d_k)`` in the place of the loss: every step of the attack trains the model too.

    ``d_0`` is drawn uniformly, ``U(-1, 1) epsilon |x| / sqrt(n)`` for a text of ``n`` numbers; ``d_{k+1}`` is ``d_k``
    enlarged as in PGD. All passes have the same dropout. `steps` passes and backward passes; none keeps its activations
    while the next one runs.

    References:
        Zhu, C., Cheng, Y., Gan, Z., Sun, S., Goldstein, T. and Liu, J. (2020). FreeLB: enhanced adversarial training
        for natural language understanding. ICLR. https://arxiv.org/abs/1909.11764
    """

    name = "freelb"
    summary = "adversarial training: the loss is the mean over the steps of an attack (FreeLB)"
    paper = "https://arxiv.org/abs/1909.11764"
    config = SteppedAttackConfig
    replaces_loss = True

    def term(self, step: Step) -> torch.Tensor:
        from pefttools.objectives.perturbation import Perturbation

        options, collected = self.options, step.collected()
        delta = Perturbation(lambda read: self._drawn(read, step))
        for number in range(options.steps):
            loss = step.run(delta).loss / options.steps
            (slope,) = collected.add(loss, delta.tensor)
            if number + 1 < options.steps:
                delta.move(self.enlarged(delta.tensor.detach(), slope, delta.read, step.texts))
        return collected.total()

    def _drawn(self, read: torch.Tensor, step: Step) -> torch.Tensor:
        import torch

        from pefttools.objectives.attack import root_mean_square

        noise = step.texts.without_padding(torch.empty_like(read).uniform_(-1, 1))
        return self.options.epsilon * root_mean_square(read, step.texts) * noise
