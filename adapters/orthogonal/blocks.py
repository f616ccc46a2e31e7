"""Blocks of block-diagonal matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def blocks(matrix: Tensor, size: int) -> Tensor:
    """The blocks on the diagonal of a matrix, ``[n, size, size]``."""
    import torch

    number = len(matrix) // size
    places = torch.arange(number)
    return matrix.reshape(number, size, number, size)[places, :, places, :]
