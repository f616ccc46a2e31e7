"""What a check of the installation found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: note: something optional is missing; problem: something that pefttools needs is missing or broken
Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        section: what kind of thing was checked, e.g. ``packages``.
        name: what was checked, e.g. ``torch``.
        status: how it is.
        text: what was found.
        hint: what to do about it.
        data: the same in numbers and names; sizes in bytes.
    """

    section: str
    name: str
    status: Status
    text: str
    hint: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All findings about an installation."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What has to be mended before pefttools can work."""
        return tuple(one for one in self.findings if one.status == "problem")

    @property
    def healthy(self) -> bool:
        """Whether models can be trained and used here."""
        return not self.problems

    def sections(self) -> Iterable[str]:
        """Names of the sections, in order."""
        return dict.fromkeys(one.section for one in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"healthy": self.healthy, "findings": [asdict(one) for one in self.findings]}


def shown(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(getattr(error, "message", error)).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def size(number: float) -> str:
    """Human-readable bytes."""
    return f"{number / 2**20:,.0f} MiB" if number < 2**30 else f"{number / 2**30:,.1f} GiB"
