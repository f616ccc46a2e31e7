"""OSF: the least important directions of a weight are trained, the others are frozen.

Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning,
https://arxiv.org/abs/2504.07097

    W = U_high S_high V_high^T + U_low S_low V_low^T          the second part is trained

Made for continual learning; it trains about as much as full fine-tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..peft_weights import LayerOptions, PeftWeights

if TYPE_CHECKING:
    from torch import nn


class OSFOptions(LayerOptions):
    """Options of OSF."""


class OSF(PeftWeights[OSFOptions]):
    """Training of the low singular directions of weights."""

    name = "osf"
    summary = "the smallest singular directions of each weight"
    paper = "https://arxiv.org/abs/2504.07097"
    config = OSFOptions
    learning_rate = 1e-4
    peft_class = "OSFConfig"

    def decays_to(self, model: nn.Module, config: OSFOptions, name: str) -> float | None:
        return None if ".osf_svd_params." in name else 0.0  # they are parts of the base's own weights
