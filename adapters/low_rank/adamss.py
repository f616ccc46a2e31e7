"""AdaMSS: small updates in several subspaces of a weight.

AdaMSS: Adaptive Multi-Subspace Approach for Parameter-Efficient Fine-Tuning,
https://openreview.net/forum?id=8ZdWmpYxT0

The first singular vectors of a weight are clustered; each cluster gets its own update of a small rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ..peft_weights import LayerOptions, PeftWeights


class AdaMSSOptions(LayerOptions):
    """Options of AdaMSS."""

    r: int = Field(100, ge=1, description="number of singular vectors that are clustered")
    subspaces: int = Field(5, ge=1, description="number of clusters")
    subspace_rank: int = Field(1, ge=1, description="rank of the update in each")


class AdaMSS(PeftWeights[AdaMSSOptions]):
    """Low-rank updates in clusters of singular vectors."""

    name = "adamss"
    summary = "updates in several subspaces of a weight"
    paper = "https://openreview.net/forum?id=8ZdWmpYxT0"
    config = AdaMSSOptions
    learning_rate = 1e-2
    peft_class = "AdamssConfig"
    needs_weights = True
    peft_names = {"subspaces": "num_subspaces"}  # noqa: RUF012

    def rank(self, options: Mapping[str, Any], inputs: int, outputs: int) -> int:
        return int(options["num_subspaces"]) * int(options["subspace_rank"])
