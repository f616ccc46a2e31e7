"""Command line options made from a pydantic model, so that the two can't drift apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo


def with_options_of(
    model: type[BaseModel], *, names: Mapping[str, str], without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a model, before those of its own.

    The command receives the fields as keyword arguments: ``def command(**given)``.

    Args:
        model: its fields become options: their descriptions are the help, and their bounds apply.
        names: field -> option, if it is not the field's name with hyphens; an environment variable may follow after a
            space.
        without: fields that have no option.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
        made = [
            _parameter(name, field, names.get(name, f"--{name.replace('_', '-')}"))
            for name, field in model.model_fields.items()
            if name not in without
        ]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*made, *own)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def _parameter(name: str, field: FieldInfo, option: str) -> inspect.Parameter:
    flag, _, variable = option.partition(" ")
    kind: Any = field.annotation
    several = get_origin(kind) is tuple
    if several:
        kind = list.__class_getitem__(get_args(kind)[0])
    if kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    default = ... if field.is_required() else [] if several else field.get_default(call_default_factory=True)
    assert field.description is not None, f"the field {name} has no description"
    info = typer.Option(
        default, flag, help=f"{field.description[0].upper()}{field.description[1:]}.", envvar=variable or None,
        **_bounds(field),
    )  # fmt: skip
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=kind)


def _bounds(field: FieldInfo) -> dict[str, Any]:
    """The bounds that typer checks itself; `gt` is left to the model."""
    found: dict[str, Any] = {}
    for rule in field.metadata:
        for of_model, of_typer in (("ge", "min"), ("le", "max")):
            if (value := getattr(rule, of_model, None)) is not None:
                found[of_typer] = value
    return found
