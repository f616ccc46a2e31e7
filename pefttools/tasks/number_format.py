"""The number format in which a model is given numbers that are not tokens: pixels, spectra, samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def number_format(transformer: nn.Module) -> torch.dtype:
    """Number format of a model's states."""
    return next(parameter.dtype for parameter in transformer.parameters() if parameter.is_floating_point())


def in_format(transformer: nn.Module, numbers: torch.Tensor) -> torch.Tensor:
    """Numbers in the format of a model's weights, where autocast does not take care of it."""
    import torch

    if torch.is_autocast_enabled(numbers.device.type):
        return numbers
    return numbers.to(number_format(transformer))
