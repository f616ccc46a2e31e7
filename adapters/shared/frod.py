"""FRoD: a sparse rotation within a basis that layers of the same kind share.

FRoD: Full-Rank Efficient Fine-Tuning with Rotational Degrees, https://doi.org/10.1609/aaai.v40i31.39813

    W' = L (diag(l) + S) R          L, R from the weights of all layers of a kind; l and the sparse S trained
"""

from __future__ import annotations

from pydantic import Field

from pefttools.methods import Capabilities

from ..peft_weights import DropoutOptions, PeftWeights


class FRoDOptions(DropoutOptions):
    """Options of FRoD."""

    sparsity: float = Field(0.01, gt=0, le=1, description="share of the rotation's entries that are trained")
    save_projection: bool = Field(True, description="store the shared basis with the adapter")


class FRoD(PeftWeights[FRoDOptions]):
    """Sparse rotations in a shared basis."""

    name = "frod"
    summary = "sparse rotations in a basis that layers share"
    paper = "https://doi.org/10.1609/aaai.v40i31.39813"
    config = FRoDOptions
    # Its basis may be so ill-conditioned that for weights in 16 bits it is different on another machine.
    capabilities = Capabilities(effect="weights", variants=frozenset({"float32"}), deltas=True)
    learning_rate = 2.5e-3
    peft_class = "FrodConfig"
    needs_weights = True
    peft_names = {"sparsity": "sparse_rate"}  # noqa: RUF012
    always = {"progressbar": False}  # noqa: RUF012
    conv1d = True
