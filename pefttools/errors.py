"""The one exception family. A message says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PeftToolsError(Exception):
    """Base of every error that pefttools raises on purpose.

    Args:
        message: what is wrong and where.
        hint: what the user can do about it.
    """

    #: exit code of the command line: 2 for wrong input, 1 for failed work
    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(PeftToolsError):
    """A recipe, option or combination that can't work."""


class UnknownNameError(ConfigError):
    """A plugin, key or column name that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        place = f" in {where}" if where else ""
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        hint += f"Known: {', '.join(names) if names else 'none'}."
        super().__init__(f"unknown {kind} {name!r}{place}", hint=hint)


class WriteError(ConfigError):
    """A path that can't be written: no permission, or no space."""


class DataError(PeftToolsError):
    """Rows that can't be read or don't fit the task; names file, row and column."""


class BaseModelError(PeftToolsError):
    """A base model that is missing, can't be loaded, or is not the one an artifact belongs to."""


class ArtifactError(PeftToolsError):
    """An artifact that is missing, damaged or has a schema that this version can't read."""


class TargetError(ConfigError):
    """A module pattern that matches nothing in the model."""


class ContextLengthError(ConfigError):
    """A prompt and an answer that are together longer than the base can take."""


class TrainingError(PeftToolsError):
    """Training that could not finish."""

    exit_code = 1


class DivergedError(TrainingError):
    """A loss that is not finite."""

    def __init__(self, step: int, loss: float, *, float16: bool = False) -> None:
        overflow = (
            " Numbers above 65,504 overflow in float16, in which int8 layers also write their outputs on a card: "
            "use training.precision=float32, or another variant of the base."
        )
        super().__init__(
            f"training diverged: the loss was {loss} at step {step}",
            hint="Lower training.learning_rate, or raise training.warmup." + overflow * float16,
        )
        self.step = step


class WontFitError(TrainingError):
    """A training run that is predicted to need more memory than there is."""


class CapacityError(PeftToolsError):
    """More adapters or bytes at once than a pool may hold."""


#: how allocators report it, besides torch.OutOfMemoryError: the CPU's has no type of its own, nor do CUDA's libraries
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the machine or a card is out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)
