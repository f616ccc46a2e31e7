"""PEANuT: a small network reads the base's weight and gives its change.

PEANuT: Parameter-Efficient Adaptation with Weight-aware Neural Tweakers, https://arxiv.org/abs/2410.01870

    y = W x + f(W) x          f(W) = B act(A W)
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import LayerOptions, PeftWeights


class PeanutOptions(LayerOptions):
    """Options of PEANuT."""

    r: int = Field(32, ge=1, description="size of the network's hidden layer")
    depth: int = Field(0, ge=0, description="further hidden layers on each side")
    activation: str = Field("relu", description="non-linearity, by its name in transformers")
    scaling: float = Field(1.0, gt=0, description="factor on the change")


class Peanut(PeftWeights[PeanutOptions]):
    """Changes of weights made from the weights themselves."""

    name = "peanut"
    summary = "a small network that maps the weight to its change"
    paper = "https://arxiv.org/abs/2410.01870"
    config = PeanutOptions
    learning_rate = 1e-3
    peft_class = "PeanutConfig"
    rank_option = "r"
    peft_names = {"activation": "act_fn"}  # noqa: RUF012
