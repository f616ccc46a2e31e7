"""The longest text of a task, held against the positions that its base has."""

from __future__ import annotations

from typing import Any, TypeVar

from pefttools.bases import Base
from pefttools.bases.positions import text_limit
from pefttools.errors import ConfigError
from pefttools.tasks.task import Task

TaskT = TypeVar("TaskT", bound=Task[Any])


def fit_to_base(task: TaskT, base: Base, virtual: int) -> tuple[TaskT, str | None]:
    """A task whose texts, with what a method puts before them and an answer behind them, the base can take.

    Args:
        task: with its options.
        base: the base model.
        virtual: number of virtual tokens.

    Returns:
        The task, and what was changed: a ``max_length`` that nobody asked for is lowered.

    Raises:
        ConfigError: a ``max_length`` that was asked for is too long.
    """
    wanted = task.longest_input
    if wanted is None:
        return task, None
    limit = text_limit(base)
    if task.encoder_decoder:
        _check_targets(task, base, limit)
    new = 0 if task.encoder_decoder else task.generated_tokens
    if limit is None or wanted + virtual + new <= limit:
        return task, None
    room = limit - virtual - new
    parts = [f"task.max_length={wanted}"]
    parts += [f"{virtual} virtual tokens"] if virtual else []
    parts += [f"{new} generated ones"] if new else []
    verb = "is" if len(parts) == 1 else "are"
    what = f"{' and '.join(parts)} {verb} more than the {limit} positions of the base {base.id!r}"
    if "max_length" in task.options.model_fields_set or room < 8:
        raise ConfigError(what, hint=f"Set task.max_length={room} or less." if room >= 8 else "Use fewer of them.")
    return type(task)(task.options.model_copy(update={"max_length": room})), f"{what}: task.max_length is {room}"


def _check_targets(task: Task[Any], base: Base, limit: int | None) -> None:
    """Refuse texts that a decoder has no positions for.

    Raises:
        ConfigError: names the option.
    """
    for name in ("max_target_length", "max_new_tokens"):
        wanted = getattr(task.options, name, 0)
        if limit is not None and wanted > limit:
            raise ConfigError(
                f"task.{name}={wanted} is more than the {limit} positions of the base {base.id!r}",
                hint=f"Set task.{name}={limit} or less.",
            )
