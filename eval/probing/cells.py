"""The result of one method on one model: a status for each check, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from pefttools.errors import PeftToolsError
from pefttools.testing.further import check_compiled, check_exported, check_packed, check_planned
from pefttools.testing.methods import PROMISES, Check, trained_subject
from pefttools.testing.subject import DifferenceError, Rows

from .families import Bench

#: ``wrong``: a silently wrong result
Status = Literal["works", "refused", "fails", "wrong", "not tried"]
#: the check that comes before all others
TRAINED = "trained"
COMPILED = "compiled"
CHECKS: dict[str, Check] = {
    **PROMISES,
    "packed": check_packed,
    "planned": check_planned,
    "exported": check_exported,
    COMPILED: check_compiled,
}


@dataclass(frozen=True)
class Observation:
    """What one check saw.

    Attributes:
        status: one of `Status`.
        why: the refusal or the failure; empty if it works.
    """

    status: Status
    why: str = ""

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"no status {self.status!r}")


@dataclass(frozen=True)
class Cell:
    """One method on one model in one number format.

    Attributes:
        method: its name.
        family: of the model, or the model's name.
        variant: number format of the base.
        checks: name of a check -> what it saw; `TRAINED` is always among them.
        seconds: that it took.
    """

    method: str
    family: str
    variant: str
    checks: Mapping[str, Observation] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """The worst of its checks; refused if it can't be trained; otherwise it works."""
        found = {one.status for one in self.checks.values()}
        if "wrong" in found:
            return "wrong"
        return "fails" if "fails" in found else self.checks[TRAINED].status

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "status": self.status}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Cell:
        """The inverse of `as_dict`."""
        checks = {name: Observation(**one) for name, one in given["checks"].items()}
        return cls(given["method"], given["family"], given["variant"], checks, given["seconds"])


def observe(
    method: Mapping[str, Any],
    bench: Bench,
    variant: str,
    folder: Path,
    *,
    checks: Iterable[str],
    answers: Callable[[Path, Rows], torch.Tensor],
) -> dict[str, Observation]:
    """Apply a method to a model and run all requested checks.

    Args:
        method: name and options.
        bench: the model and its rows.
        variant: number format of the base.
        folder: an empty one, for artifacts.
        checks: names of `CHECKS`.
        answers: loads an artifact in another process, and answers rows there.

    Returns:
        Name of a check -> what it saw, `TRAINED` first; the others only if that works.
    """
    made: list[Any] = []

    def train() -> None:
        made.append(
            trained_subject(
                method, base=bench.base, folder=folder, task=bench.task, rows=bench.rows, labels=bench.labels,
                variant=variant, answers=answers,
            )
        )  # fmt: skip

    found = {TRAINED: _observed(train, refusing=True)}
    for name in checks:
        if made:
            found[name] = _observed(lambda check=CHECKS[name]: check(made[0]))  # type: ignore[misc]
    return found


def _observed(run: Callable[[], Any], *, refusing: bool = False) -> Observation:
    """What a check saw; checks report refusals themselves, except the first: there an error of ours is a refusal."""
    try:
        outcome = run()
    except PeftToolsError as error:
        return Observation("refused" if refusing else "fails", _short(error))
    except DifferenceError as error:
        return Observation("wrong", _short(error))
    except AssertionError as error:
        return Observation("fails", _short(error))
    except Exception as error:
        return Observation("fails", f"{type(error).__name__}: {_short(error)}")
    return Observation("works") if outcome is None else Observation(outcome.status, outcome.why.strip())


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400]
