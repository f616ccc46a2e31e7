"""Noise on the embeddings of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step


class NEFTuneConfig(ObjectiveConfig):
    """Options of NEFTune."""

    alpha: float = Field(5.0, gt=0, description="size of the noise")


class NEFTune(Objective[NEFTuneConfig]):
    """The model reads ``x + alpha / sqrt(tokens * hidden) * U(-1, 1)`` while it is trained.

    Each text of a batch gets noise by its own length, as in the paper; transformers' own switch uses the length that
    the batch is padded to.

    References:
        Jain, N., Chiang, P., Wen, Y., Kirchenbauer, J., Chu, H.-M., Somepalli, G., Bartoldson, B. R., Kailkhura, B.,
        Schwarzschild, A., Saha, A., Goldblum, M., Geiping, J. and Goldstein, T. (2024). NEFTune: noisy embeddings
        improve instruction finetuning. ICLR. https://arxiv.org/abs/2310.05914
    """

    name = "neftune"
    summary = "regularization: noise on the embeddings while training (NEFTune)"
    paper = "https://arxiv.org/abs/2310.05914"
    config = NEFTuneConfig
    changes_input = True

    def change(self, read: torch.Tensor, step: Step) -> torch.Tensor:
        import torch

        count = step.texts.of_each(step.texts.without_padding(torch.ones_like(read, dtype=torch.float32)))
        noise = step.texts.without_padding(torch.empty_like(read, dtype=torch.float32).uniform_(-1, 1))
        return read + (self.options.alpha / count.clamp(min=1).sqrt() * noise).to(read.dtype)
