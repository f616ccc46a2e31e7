"""What the last layer of a head reads of each row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def last_linear(model: nn.Module, trained: Collection[torch.Tensor]) -> nn.Module:
    """The layer of a head whose outputs are the logits.

    Args:
        model: the head, or the model that it is a part of.
        trained: parameters of the head.
    """
    known = set(map(id, trained))
    return [one for one in model.modules() if isinstance(one, nn.Linear) and id(one.weight) in known][-1]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a layer reads in the block, call by call."""
    read: list[torch.Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        read.append(args[0])

    handle = layer.register_forward_pre_hook(hook)
    try:
        yield read
    finally:
        handle.remove()
