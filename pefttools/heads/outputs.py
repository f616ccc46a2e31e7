"""The outputs of transformers' classes with a head."""

from __future__ import annotations

from typing import Any, cast

import torch


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits of a class's outputs; if it scores the start and the end of a span separately, both for each token.

    Args:
        outputs: those of a forward pass of a class of transformers.

    Returns:
        ``[rows, outputs]`` or ``[rows, tokens, outputs]``.
    """
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    return cast("torch.Tensor", outputs.logits)
