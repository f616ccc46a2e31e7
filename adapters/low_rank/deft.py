"""DEFT: a subspace of the weight is removed and replaced by other content.

Kumar et al.: DEFT: Decompositional Efficient Fine-Tuning for Text-to-Image Models, NeurIPS 2025,
https://proceedings.neurips.cc/paper_files/paper/2025/hash/93a34a7138bdad95e874018d5f491cc6-Abstract-Conference.html

    W' = (I - P relu(P)^T) W + P R          P [out, r] determines what is removed, R [r, in] what is added
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..peft_weights import DropoutOptions, PeftWeights


class DeftOptions(DropoutOptions):
    """Options of DEFT."""

    r: int = Field(8, ge=1, description="size of the subspace")
    projection: Literal["relu", "qr"] = Field(
        "relu", description="how the subspace is removed: by P relu(P)^T, or by the orthogonal projection"
    )


class Deft(PeftWeights[DeftOptions]):
    """Projections of weights with content injected."""

    name = "deft"
    summary = "a replaced subspace of the weight"
    paper = "https://github.com/MAXNORM8650/DEFT"
    config = DeftOptions
    learning_rate = 2e-3
    peft_class = "DeftConfig"
    rank_option = "r"
    peft_names = {"projection": "decomposition_method"}  # noqa: RUF012
    conv1d = True
