"""What the sizes of a task's examples are counted in, and how a user sets the maximum."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeUnit:
    """A unit of sizes, which are whole numbers.

    Attributes:
        option: the task's option for the longest input.
        name: the unit that the option is given in.
        parts: how many sizes make one such unit.
    """

    option: str = "max_length"
    name: str = "tokens"
    parts: int = 1

    def shown(self, size: int) -> int | float:
        """A size in the option's unit."""
        whole, rest = divmod(size, self.parts)
        return size / self.parts if rest else whole


TOKENS = SizeUnit()
#: hundredths of a second
SECONDS = SizeUnit("max_seconds", "seconds", 100)
