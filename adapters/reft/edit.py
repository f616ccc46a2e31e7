"""The edit of a block's states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pefttools.errors import TargetError
from pefttools.sites import block_of, block_parts, modules_at, output_size

if TYPE_CHECKING:
    from .method import ReftOptions


class Edit(nn.Module):
    """``R^T (W h + b - R h)``, or without its last part.

    Args:
        size: of the states.
        config: the kind of edit and its size.
        device: where it is.
    """

    of_adapter = True

    def __init__(self, size: int, config: ReftOptions, device: torch.device) -> None:
        super().__init__()
        self.subspace = nn.Parameter(torch.empty(config.r, size, device=device))
        self.source = nn.Linear(size, config.r, device=device)
        self.dropout = nn.Dropout(config.dropout)
        self.kind = config.kind
        nn.init.orthogonal_(self.subspace)
        nn.init.zeros_(self.source.bias)
        with torch.no_grad():
            self.source.weight.copy_(self.rows())
        if config.kind == "direft":
            nn.init.zeros_(self.source.weight)

    def rows(self) -> torch.Tensor:
        """``R [r, size]``: for loreft the rows of the parameter, orthonormalized one after the other."""
        if self.kind != "loreft":
            return self.subspace
        # torch's orthogonal parametrization of such a shape rounds numbers near one down to zero after weight decay.
        q, r = torch.linalg.qr(self.subspace.T)
        rows: torch.Tensor = (q * torch.sign(torch.diagonal(r))).T
        return rows

    def as_bottleneck(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``down [r, size]``, its bias and ``up [size, r]`` of the equivalent bottleneck without a non-linearity."""
        rows = self.rows()
        down = self.source.weight if self.kind == "direft" else self.source.weight - rows
        return down, self.source.bias, rows.T.contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down, bias, up = self.as_bottleneck()
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(down.dtype)
        edit: torch.Tensor = self.dropout(nn.functional.linear(nn.functional.linear(x, down, bias), up))
        return edit


def make_edit(size: int, config: ReftOptions, device: torch.device) -> Edit:
    """The edit of states of a given size.

    Raises:
        TargetError: the subspace is larger than the states.
    """
    if config.r > size:
        raise TargetError(f"reft.r is {config.r}, but the states have only {size} dimensions")
    return Edit(size, config, device)


def blocks(model: nn.Module, config: ReftOptions) -> list[tuple[str, int]]:
    """Names of the blocks that are edited, and the sizes of their states.

    Raises:
        TargetError: a number without a block; a model whose blocks are not known.
    """
    part = block_parts(model).feed_forward_output
    found = [
        (name.removesuffix(f".{part}"), output_size(model.get_submodule(name))) for name in modules_at(model, part)
    ]
    if not config.layers:
        return found
    chosen = [one for one in found if _number(one[0]) in config.layers]
    missing = sorted(set(config.layers) - {_number(name) for name, _ in chosen})
    if missing:
        raise TargetError(f"reft.layers: there is no block {missing[0]}; there are {len(found)}, the first one is 0")
    return chosen


def _number(block: str) -> int:
    found = block_of(block)
    assert found is not None, f"{block} is in no block"
    return found[1]
