"""Scores as people see them, by the unit of their metric."""

from __future__ import annotations

from dataclasses import dataclass

from .statistics import Interval


@dataclass(frozen=True)
class Shown:
    """How scores of a metric are shown.

    Attributes:
        unit: of the metric; ``%``: scores are shares, from 0 to 1.
    """

    unit: str

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def ending(self) -> str:
        """The unit behind the name of the metric."""
        return f", {self.unit}" if self.unit else ""

    def number(self, value: float | None, *, signed: bool = False) -> str:
        """A score, or a difference of scores; empty if there is none."""
        if value is None:
            return ""
        form = ("+" if signed else "") + (".1f" if self.unit == "%" else ".3g")
        return f"{self.scale * value + 0.0:{form}}"

    def spread(self, interval: Interval | None, *, signed: bool = False) -> str:
        """An interval; empty if there is none."""
        if interval is None:
            return ""
        return f"{self.number(interval.low, signed=signed)} to {self.number(interval.high, signed=signed)}"
