"""Fast gradient method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pefttools.objectives.attack import Attack, AttackConfig, direction
from pefttools.objectives.objective import WeightedConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.inputs import Change
    from pefttools.objectives.step import Step


class FGMConfig(AttackConfig, WeightedConfig):
    """Options of FGM."""


class FGM(Attack[FGMConfig]):
    """``L(x) + weight * L(x + epsilon |x| g / |g|)``, where ``g`` is the gradient of ``L`` with regard to ``x``.

    ``x`` is what the model reads: embeddings of a text's tokens, pixels, features of sound. Norms are taken per text,
    so neither the batch nor padding matters. The paper's epsilon is a length; ours is a share of the text's own norm,
    since base models scale their embeddings differently.

    References:
        Miyato, T., Dai, A. M. and Goodfellow, I. (2017). Adversarial training methods for semi-supervised text
        classification. ICLR. https://arxiv.org/abs/1605.07725
    """

    name = "fgm"
    summary = "adversarial training: one step against the model (FGM)"
    paper = "https://arxiv.org/abs/1605.07725"
    config = FGMConfig
    attacks = True
    reads_slope = True

    def term(self, step: Step) -> torch.Tensor:
        return self.options.weight * step.run(self.attack(step)).loss

    def attack(self, step: Step) -> Change:
        way = direction(step.slope(), step.texts)

        def change(read: torch.Tensor) -> torch.Tensor:
            size = step.texts.norm(step.texts.without_padding(read.detach()))
            return read + (self.options.epsilon * size * way).to(read.dtype)

        return change
