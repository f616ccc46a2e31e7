"""Names that a shell completes: read from entry points, so that no plugin is imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points


def names_of(group: str) -> Callable[[str], list[str]]:
    """Completes a name of one group of plugins, e.g. ``pefttools.tasks``; of several with commas between, the last."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        names = sorted({point.name for point in entry_points(group=group)})
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete
