"""The contract of a metric. Importing a metric must not import torch or scikit-learn: listing tasks stays fast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

#: for a share: differences below one percentage point are taken as too small to matter
MARGIN_OF_SHARES = 0.01


@dataclass(frozen=True)
class Measure:
    """What a number means.

    Attributes:
        unit: ``%`` for a share, which is stored as 0 to 1; else the number's unit, such as ``nats``; empty if none.
        higher_is_better: which way it is better; None if not known.
        bounds: minimum and maximum possible value, with None for no maximum; None if it has no bounds.
        margin: differences below it are taken as too small to matter; None if not known.
        over_classes: whether it is an average over classes, in which a rare one counts as much as a frequent one.
        signature: options and version of the library that defines the number, to be quoted with it; empty if none.
    """

    unit: str = ""
    higher_is_better: bool | None = True
    bounds: tuple[float, float | None] | None = None
    margin: float | None = None
    over_classes: bool = False
    signature: str = ""

    @classmethod
    def error(cls, unit: str = "") -> Measure:
        """How far off something is: at least 0, and lower is better."""
        return cls(unit, False, (0.0, None))

    @classmethod
    def share(cls, *, over_classes: bool = False) -> Measure:
        """A share of something; higher is better."""
        return cls("%", True, (0.0, 1.0), MARGIN_OF_SHARES, over_classes)


class Metric(ABC):
    """One number that says how good predictions are.

    Attributes:
        name: name of the number.
        measure: what it means.
    """

    name: str
    measure: Measure

    def ready(self) -> None:
        """Check that what defines the number is installed, before anything is loaded.

        Raises:
            ConfigError: it is not.
        """
        return

    @property
    def signature(self) -> str:
        """See `Measure`."""
        return self.measure.signature

    @abstractmethod
    def compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        """The metric of predictions, one per row.

        Args:
            predictions: as the task gives them.
            references: as the task gives them.
        """

    def row_values(self, predictions: Sequence[Any], references: Sequence[Any]) -> Numbers | None:
        """One number per row whose mean is the metric and whose spread shows how it would vary with other rows.

        Each is the metric plus the row's influence on it. Intervals and verdicts are made from these.

        Returns:
            ``[rows]``; None if the metric has no such numbers.
        """
        return None
