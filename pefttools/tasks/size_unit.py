"""What the sizes of a task's examples are counted in, and how a user says the largest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeUnit:
    """A unit of sizes, which are whole numbers.

    Attributes:
        option: of the task, that says the longest input.
        name: of what the option is said in.
        parts: sizes that make one of it.
    """

    option: str = "max_length"
    name: str = "tokens"
    parts: int = 1

    def shown(self, size: int) -> int | float:
        """A size as the option says it."""
        whole, rest = divmod(size, self.parts)
        return size / self.parts if rest else whole


TOKENS = SizeUnit()
#: hundredths of a second
SECONDS = SizeUnit("max_seconds", "seconds", 100)
