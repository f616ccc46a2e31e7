"""The fields of a pydantic model as tables, those of nested models in sections of their own."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .text import code, docstring, prose, table

_PLAIN: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    Any: "anything",
    type(None): "none",
}
_LIMITS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "pattern": "`{}`"}


def fields(model: type[BaseModel], level: int = 2, prefix: str = "") -> str:
    """The table of a model's fields, followed by a section for each nested model.

    Args:
        model: pydantic model.
        level: of the sections' headings.
        prefix: path of the model inside the outermost one, e.g. ``data.``.
    """
    if not model.model_fields:
        return "No options."
    rows = [_row(field.alias or name, field, prefix) for name, field in model.model_fields.items()]
    parts = [table(["name", "type", "default", "description"], rows)]
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            path = f"{prefix}{field.alias or name}"
            parts.append(f"{'#' * level} `{path}`")
            parts.append(docstring(inner.__doc__))
            parts.append(fields(inner, level + 1, f"{path}."))
    return "\n\n".join(part for part in parts if part)


def _row(name: str, field: FieldInfo, prefix: str) -> tuple[str, str, str, str]:
    nested = next(_models(field.annotation), None) is not None
    shown = f"[`{name}`](#{_anchor(prefix + name)})" if nested else f"`{name}`"
    limits = _limits(field.metadata)
    kind = described(field.annotation) + (f", {limits}" if limits else "")
    return shown, kind, _default(field), prose(field.description or "")


def _anchor(path: str) -> str:
    return path.replace(".", "").lower()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "as below" if isinstance(value, BaseModel) else code(value)


def described(annotation: Any) -> str:
    """A type in words."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits(inner[1:])
        return described(inner[0]) + (f" {limits}" if limits else "")
    if origin is Literal:
        return _alternatives([code(one) for one in inner])
    if origin in (Union, types.UnionType):
        return _alternatives([described(one) for one in inner])
    if origin in (list, tuple, set, frozenset):
        return f"list of {described(inner[0])}"
    if origin is dict:
        if inner[1] is Any:
            return "mapping"
        return f"mapping of {described(inner[0])} to {described(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    raise TypeError(f"no words for {annotation!r}")


def _alternatives(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def _limits(metadata: Any) -> str:
    """What pydantic checks, e.g. ``≥ 0, < 1``."""
    found = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            found.append(_limits(one.metadata))
            continue
        for name, form in _LIMITS.items():
            value = getattr(one, name, None)
            if value is not None:
                found.append(form.format(value))
    return ", ".join(one for one in found if one)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in a type, also in a list or union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
