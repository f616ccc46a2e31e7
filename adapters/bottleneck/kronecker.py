"""Layers whose weight is a sum of Kronecker products."""

from __future__ import annotations

import torch
from torch import nn

from pefttools.errors import ConfigError


def shared_factors(products: int, device: torch.device) -> nn.Parameter:
    """The matrices ``A [n, n, n]`` that all layers of a model share."""
    return nn.Parameter(torch.randn(products, products, products, device=device) * products**-0.5)


def weight_of(shared: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``sum of A_i (x) (s_i t_i)``, ``[in, out]``.

    Args:
        shared: ``A [n, n, n]``.
        left: ``s [n, in / n, rank]``.
        right: ``t [n, rank, out / n]``.
    """
    n = len(shared)
    products = torch.einsum("iab,icd->acbd", shared, left @ right)
    return products.reshape(n * left.shape[1], n * right.shape[2])


class KroneckerLinear(nn.Module):
    """``x W + b`` with ``W`` as in `weight_of`.

    Args:
        inputs: size of the last dimension of ``x[..., inputs]``.
        outputs: size of the last dimension of the result.
        rank: of the layer's own factors.
        shared: of all layers.
        zero: initialize it to return zeros.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, shared: nn.Parameter, *, zero: bool) -> None:
        super().__init__()
        n, device = len(shared), shared.device
        for size in (inputs, outputs):
            if size % n:
                raise ConfigError(f"compacter.products is {n}, which does not divide {size}, the size of a layer")
        self.shared = shared
        self.left = nn.Parameter(torch.randn(n, inputs // n, rank, device=device) * (inputs // n * rank) ** -0.5)
        self.right = nn.Parameter(torch.randn(n, rank, outputs // n, device=device))
        self.bias = nn.Parameter(torch.zeros(outputs, device=device))
        if zero:
            nn.init.zeros_(self.right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, weight_of(self.shared, self.left, self.right).T, self.bias)
