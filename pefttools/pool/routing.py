"""Which row of the running batch uses which adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pefttools.deltas.kind import Family
from pefttools.pool.gathering import Gathered, Rows


@dataclass
class Routing:
    """Set once per call, read at every site. One object per pool, filled under the pool's lock.

    Attributes:
        slots: per family, the slot of each row, ``[rows]``; a family that no row needs is left out.
        virtual: the same for families of virtual tokens.
        rows: key of an adapter -> its rows, for what is not stacked.
        total: number of rows.
        inputs: by name, inputs of sites that a later site's bottleneck reads.
        gathered: the rows' weights, while `keeping`.
        keeping: the same rows run again and again.
    """

    slots: dict[Family, torch.Tensor] = field(default_factory=dict)
    virtual: dict[Family, torch.Tensor] = field(default_factory=dict)
    rows: dict[int, list[int]] = field(default_factory=dict)
    total: int = 0
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    gathered: Gathered = field(default_factory=Gathered)
    keeping: bool = False

    def clear(self) -> None:
        """Route every row to the base."""
        self.slots, self.virtual, self.rows, self.inputs, self.keeping = {}, {}, {}, {}, False

    def of(self, slots: torch.Tensor) -> Rows:
        """The call's rows in a family, by their slots."""
        return Rows(slots, self.gathered if self.keeping else None)
