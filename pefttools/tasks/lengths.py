"""The longest input of a task, compared with what its base takes."""

from __future__ import annotations

from typing import Any, TypeVar

from pefttools.bases import Base
from pefttools.bases.positions import written_limit
from pefttools.errors import ConfigError
from pefttools.tasks.size_unit import TOKENS
from pefttools.tasks.task import Task

TaskT = TypeVar("TaskT", bound=Task[Any])


def fit_to_base(task: TaskT, base: Base, virtual: int) -> tuple[TaskT, str | None]:
    """A task whose inputs fit its base, together with what a method puts before a text and the answer after it.

    Args:
        task: with its options.
        base: the base model.
        virtual: number of virtual tokens.

    Returns:
        The task, and what was changed: a maximum length that was not set explicitly is lowered.

    Raises:
        ConfigError: a maximum length that was set explicitly is too long.
    """
    wanted = task.longest_input
    if wanted is None:
        return task, None
    limit, unit = task.input_limit(base), task.size_unit
    if task.encoder_decoder:
        _check_targets(task, base)
    new = 0 if task.encoder_decoder else task.generated_tokens
    if unit != TOKENS:
        virtual = new = 0  # they take no room from a sound
    if limit is None or wanted + virtual + new <= limit:
        return task, None
    name, room = f"task.{unit.option}", limit - virtual - new
    parts = [f"{name}={unit.shown(wanted)}"]
    parts += [f"{virtual} virtual tokens"] if virtual else []
    parts += [f"{new} generated tokens"] if new else []
    verb = "is" if len(parts) == 1 else "are"
    most = f"{unit.shown(limit)} {'positions' if unit == TOKENS else unit.name}"
    what = f"{' and '.join(parts)} {verb} more than the {most} of the base {base.id!r}"
    left = unit.shown(room)
    if unit.option in task.options.model_fields_set or room < 8:
        raise ConfigError(what, hint=f"Set {name}={left} or less." if room >= 8 else "Use fewer of them.")
    return type(task)(task.options.model_copy(update={unit.option: left})), f"{what}: {name} is lowered to {left}"


def _check_targets(task: Task[Any], base: Base) -> None:
    """Refuse texts that a decoder has no positions for.

    Raises:
        ConfigError: names the option.
    """
    limit = written_limit(base)
    for name in ("max_target_length", "max_new_tokens"):
        wanted = getattr(task.options, name, 0)
        if limit is not None and wanted > limit:
            raise ConfigError(
                f"task.{name}={wanted} is more than the {limit} positions of the base {base.id!r}",
                hint=f"Set task.{name}={limit} or less.",
            )
