"""bitsandbytes' int8 layer, for inputs of any number of dimensions."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear8bitLt


class Int8Linear(Linear8bitLt):  # type: ignore[misc]
    """bitsandbytes handles ``[rows, size]`` and ``[rows, tokens, size]``; latent attention has one dimension more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, -2) if x.ndim > 3 else x
        out: torch.Tensor = super().forward(flat)
        return out.view(*x.shape[:-1], -1) if x.ndim > 3 else out
