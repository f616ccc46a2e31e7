"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products, with factors that all layers share.

Karimi Mahabadi, Henderson, Ruder: Compacter: Efficient Low-Rank Hypercomplex Adapter Layers,
https://arxiv.org/abs/2106.04647

    W = sum over i of A_i (x) (s_i t_i^T)          (x) the Kronecker product

The n matrices ``A_i [n, n]`` are shared by all adapters of the model; ``s_i`` and ``t_i`` are a layer's own.
Compacter++ is ``placement: feed-forward``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pefttools.errors import ConfigError

from .config import BottleneckConfig
from .method import Bottlenecks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .module import Bottleneck


class CompacterConfig(BottleneckConfig):
    """Options of Compacter."""

    products: int = Field(4, ge=1, description="number of products, and size of the shared matrices")
    rank: int = Field(1, ge=1, description="rank of a layer's own factors")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("gelu", description="non-linearity in the bottleneck")


class Compacter(Bottlenecks[CompacterConfig]):
    """Bottleneck adapters of Kronecker products."""

    name = "compacter"
    summary = "bottleneck adapters of Kronecker products, with factors that all layers share"
    paper = "https://arxiv.org/abs/2106.04647"
    config = CompacterConfig
    learning_rate = 1e-2

    def check_model(self, config: CompacterConfig, model: nn.Module) -> None:
        if config.size % config.products:
            raise ConfigError(
                f"compacter.products is {config.products}, which does not divide compacter.size={config.size}"
            )

    def networks(self, config: CompacterConfig) -> Callable[[int, int, torch.device], Bottleneck]:
        from .kronecker import KroneckerLinear, shared_factors
        from .module import Bottleneck

        found: list[nn.Parameter] = []

        def make(inputs: int, outputs: int, device: torch.device) -> Bottleneck:
            if not found:  # on the device of the first layer
                found.append(shared_factors(config.products, device))
            down = KroneckerLinear(inputs, config.size, config.rank, found[0], zero=False)
            up = KroneckerLinear(config.size, outputs, config.rank, found[0], zero=True)
            return Bottleneck(down, up, config)

        return make

    def weight(self, state: dict[str, Tensor], name: str) -> Tensor:
        from .kronecker import weight_of

        # They are stored once, under the first layer's name.
        shared = next(value for full, value in state.items() if full.endswith(".shared"))
        return weight_of(shared, state[f"{name}.left"], state[f"{name}.right"]).T
