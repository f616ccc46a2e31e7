"""Plans with defaults, for the tests."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.planning.device import CPU, Device
from pefttools.planning.plan import Choice, MemoryPlan, Shape, combined


def plan(
    base: str,
    *,
    task: Choice = "sequence-classification",
    methods: Sequence[Choice] = ("lora",),
    variants: Sequence[str] = ("float32",),
    labels: int = 2,
    shape: Shape | None = None,
    device: Device = CPU,
) -> list[MemoryPlan]:
    """The memory of trainings of one shape."""
    return [one.row(shape or Shape()) for one in combined(base, task, methods, variants, labels, device)]
