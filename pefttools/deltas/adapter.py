"""The trained state of one adapter, whatever its method: delta kinds at sites, and virtual tokens.

The order of the effects at a site, for an input ``x`` and the base module's weight ``W`` and bias ``b``::

    x  = InputScale * x
    x  = x M                             Rotation, block by block
    y  = W x + b                         with other parameters, if Replace gives some
    y  = vectors[x]                      EmbeddingRows, for some tokens of an embedding
    y  = norm(x + bottleneck(y))         NormBottleneck, if the module is a norm; NormFusedBottlenecks
    y  = y + Dense(x) + LowRank(x)       and Sparse, Spectrum, Wavelets, Kronecker, SharedLowRank, ...
    y  = WeightScale * (y - b) + b       DoRA's: the bias is not scaled
    y  = OutputScale * y                 IA3's: the bias is scaled too
    y  = first * y + second * swap(y)    PairRotation
    y  = y + Bias
    y  = y + Bottleneck(y)               or from another site's input; FusedBottlenecks
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from pefttools.deltas.bias import Bias
from pefttools.deltas.bottleneck import Bottleneck, NormBottleneck
from pefttools.deltas.dense import Dense
from pefttools.deltas.fusion import FusedBottlenecks, NormFusedBottlenecks
from pefttools.deltas.kind import DeltaKind
from pefttools.deltas.low_rank import LowRank
from pefttools.deltas.replace import Replace
from pefttools.deltas.rotations import PairRotation, Rotation
from pefttools.deltas.rows import EmbeddingRows
from pefttools.deltas.scales import InputScale, OutputScale, WeightScale
from pefttools.deltas.shared_bases import SharedBases
from pefttools.deltas.shared_low_rank import SharedLowRank
from pefttools.deltas.sparse import Sparse, Spectrum
from pefttools.deltas.structured import Circulant, Kronecker
from pefttools.deltas.virtual import VirtualTokens
from pefttools.deltas.wavelets import Wavelets

#: every kind, in the order in which they act
KINDS: tuple[type[DeltaKind], ...] = (
    InputScale, Rotation, Replace, EmbeddingRows, Dense, Sparse, Spectrum, Wavelets, SharedLowRank, SharedBases,
    NormBottleneck, NormFusedBottlenecks, LowRank, Kronecker, Circulant, WeightScale, OutputScale, PairRotation, Bias,
    Bottleneck, FusedBottlenecks,
)  # fmt: skip
ORDER = {kind.name: position for position, kind in enumerate(KINDS)}

KindT = TypeVar("KindT", bound=DeltaKind)


@dataclass(frozen=True, init=False)
class SiteDelta:
    """Everything that one adapter does at one site, at most one of each kind.

    Attributes:
        parts: in the order in which they act.

    Example:
        >>> SiteDelta(LowRank(torch.ones(2, 4), torch.ones(3, 2)), Bias(torch.ones(3))).kinds()
        ['low_rank', 'bias']
    """

    parts: tuple[DeltaKind, ...]

    def __init__(self, *parts: DeltaKind | None) -> None:
        """A part that is None is left out.

        Raises:
            ValueError: two parts of one kind.
        """
        given = sorted((part for part in parts if part is not None), key=lambda part: ORDER[part.name])
        if len({part.name for part in given}) < len(given):
            raise ValueError(f"several parts of one kind: {', '.join(part.name for part in given)}")
        object.__setattr__(self, "parts", tuple(given))

    def __iter__(self) -> Iterator[DeltaKind]:
        return iter(self.parts)

    def get(self, kind: type[KindT]) -> KindT | None:
        """Its part of a kind; None if it has none."""
        return next((part for part in self.parts if type(part) is kind), None)

    def to(self, device: torch.device) -> SiteDelta:
        """The same on a device."""
        return SiteDelta(*(part.to(device) for part in self.parts))

    def kinds(self) -> list[str]:
        """Names of its parts, in the order in which they act."""
        return [part.name for part in self.parts]


@dataclass(frozen=True)
class AdapterDeltas:
    """The trained state of one adapter, whatever its method.

    Attributes:
        sites: module path in the transformers model of the adapter's task -> what happens there.
        virtual: what comes before the text, at most one of each kind.
    """

    sites: dict[str, SiteDelta]
    virtual: tuple[VirtualTokens, ...] = ()

    def kinds(self) -> list[str]:
        """Names of the kinds that occur."""
        found = {part.name for site in self.sites.values() for part in site}
        return sorted(found | {part.name for part in self.virtual})

    def norms(self) -> dict[str, dict[str, float]]:
        """Size of what each site does, by kind; virtual tokens are listed under their kind in parentheses."""
        found = {name: {part.name: part.norm() for part in site} for name, site in self.sites.items()}
        return found | {f"({part.name})": {part.name: part.norm()} for part in self.virtual}
