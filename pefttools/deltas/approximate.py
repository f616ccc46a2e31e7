"""Any change of weights as a low-rank update: exact if it is one, by truncated SVD otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pefttools.deltas.adapter import SiteDelta
from pefttools.deltas.low_rank import LowRank
from pefttools.deltas.merge import weight_change
from pefttools.errors import ConfigError


@dataclass(frozen=True)
class Approximation:
    """A low-rank update in place of a weight change.

    Attributes:
        update: the update.
        lost: Frobenius norm of what it leaves out.
        norm: Frobenius norm of the change.
    """

    update: LowRank
    lost: float
    norm: float


def as_low_rank(delta: SiteDelta, weight: torch.Tensor, rank: int | None) -> Approximation:
    """The weight change of a delta as an update of at most `rank`.

    Args:
        delta: a delta at a linear layer; only changes of its weight are considered.
        weight: weight of the layer, ``[out, in]``.
        rank: maximum rank of the result; None for as high as needed to be exact, if the delta is a low-rank update.

    Raises:
        ConfigError: no rank given for a change that is not a low-rank update.
    """
    changes = [part for part in delta if part.changes_weight]
    if len(changes) == 1 and isinstance(update := changes[0], LowRank):
        if rank is None or update.rank <= rank:
            return Approximation(update, 0.0, update.norm())
        return _truncated(update.dense(), rank)
    if rank is None:
        raise ConfigError(
            "the change of the weights is not a low-rank update itself: a rank is needed",
            hint="Set the maximum rank, e.g. --rank 16; the relative error is reported.",
        )
    return _truncated(weight_change(delta, weight.float()), rank)


def _truncated(change: torch.Tensor, rank: int) -> Approximation:
    u, s, v = torch.linalg.svd(change.float(), full_matrices=False)
    root = s[:rank].sqrt()
    update = LowRank(root[:, None] * v[:rank], u[:, :rank] * root)
    return Approximation(update, float(s[rank:].square().sum().sqrt()), float(s.square().sum().sqrt()))
