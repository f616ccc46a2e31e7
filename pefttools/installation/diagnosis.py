"""All checks of the installation, one after the other; one that fails does not keep the others from running."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pefttools.installation import distributions, hub, loading, machine
from pefttools.installation.finding import Diagnosis, Finding, shown

Check = Callable[[], Iterator[Finding]]

#: section -> its checks
_CHECKS: tuple[tuple[str, Check], ...] = (
    ("packages", distributions.python),
    ("packages", distributions.required),
    ("imports", loading.loads),
    ("memory and disk", machine.memory),
    ("memory and disk", machine.disks),
    ("memory and disk", machine.hub_cache),
    ("hub", hub.hub),
    ("extras", distributions.extras),
)


def doctor() -> Diagnosis:
    """Check this installation: packages, devices, free memory and disk, the model hub, optional parts and plugins.

    Libraries and plugins are loaded in another process. Nothing is written or changed.

    Returns:
        One finding per line of ``pefttools doctor``; ``healthy`` if models can be trained and used here.
    """
    return Diagnosis(tuple(one for section, check in _CHECKS for one in _guarded(section, check)))


def _guarded(section: str, check: Check) -> Iterator[Finding]:
    """What a check finds; if it fails itself, that."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(
            section, check.__name__.replace("_", " "), "problem", f"this could not be checked: {shown(error)}"
        )
