"""Any change of weights as a low-rank update: exact where it is one, by truncated SVD otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pefttools.deltas.kinds import AdapterDeltas, LowRank, SiteDelta
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


def low_rank(delta: SiteDelta, weight: torch.Tensor, rank: int | None) -> Approximation:
    """The weight change of a delta as an update of at most `rank`.

    Args:
        delta: at a linear layer; nothing but changes of its weight is looked at.
        weight: of the layer, ``[out, in]``.
        rank: of the result; None: as high as it takes to be exact, where the delta is a low-rank update itself.

    Raises:
        ConfigError: no rank given for a change that is no low-rank update.
    """
    pure = delta.low_rank is not None and set(delta.kinds()) <= {"low_rank", "bias"}
    if pure:
        update = delta.low_rank
        assert update is not None
        if rank is None or update.rank <= rank:
            return Approximation(update, 0.0, float(torch.linalg.matrix_norm(_core(update))))
        return _truncated(update.dense(), rank)
    if rank is None:
        raise ConfigError(
            "the change of the weights is no low-rank update (IA3's and DoRA's are not): a rank is needed",
            hint="Say how much may be kept: --rank 16. The relative error is reported.",
        )
    return _truncated(weight_change(delta, weight.float()), rank)


def combine(parts: list[tuple[LowRank, float]]) -> LowRank:
    """The weighted sum of updates; its rank is the sum of theirs."""
    return LowRank(torch.cat([part.a for part, _ in parts], dim=0), torch.cat([part.b * w for part, w in parts], dim=1))


def norms(deltas: AdapterDeltas) -> dict[str, dict[str, float]]:
    """Size of what each site does, by kind: the Frobenius norm of a change, of a factor its distance from one."""
    found = {}
    for site, delta in deltas.sites.items():
        own: dict[str, float] = {}
        for kind in delta.kinds():
            value = getattr(delta, kind)
            if kind == "low_rank":
                own[kind] = float(torch.linalg.matrix_norm(_core(value)))
            elif kind == "bottleneck":
                own[kind] = float(torch.linalg.matrix_norm(_core(LowRank(value.down, value.up))))
            elif kind == "replace":
                own[kind] = float(sum(t.float().square().sum() for t in value.values()) ** 0.5)
            else:
                own[kind] = float(torch.linalg.vector_norm(value - 1 if kind.endswith("_scale") else value))
        found[site] = own
    if deltas.prefix is not None:
        found["(prefix)"] = {"prefix": float(torch.linalg.vector_norm(deltas.prefix.states))}
    if deltas.prompt is not None:
        found["(prompt)"] = {"prompt": float(torch.linalg.vector_norm(deltas.prompt.embeddings))}
    return found


def _core(update: LowRank) -> torch.Tensor:
    """A small matrix with the singular values of ``b a``."""
    left, right = torch.linalg.qr(update.b.float())[1], torch.linalg.qr(update.a.T.float())[1]
    product: torch.Tensor = left @ right.T
    return product


def _truncated(change: torch.Tensor, rank: int) -> Approximation:
    u, s, v = torch.linalg.svd(change.float(), full_matrices=False)
    root = s[:rank].sqrt()
    update = LowRank(root[:, None] * v[:rank], u[:, :rank] * root)
    return Approximation(update, float(s[rank:].square().sum().sqrt()), float(s.square().sum().sqrt()))
