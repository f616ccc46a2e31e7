"""Rows of a hub data set, with names in place of class numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pefttools.errors import DataError


def from_hub(source: str, split: str) -> Iterator[dict[str, Any]]:
    """Rows of ``ORG/NAME``, ``ORG/NAME:CONFIG`` or ``ORG/NAME:CONFIG@SPLIT``.

    Raises:
        DataError: the hub has no such data set, or can't be reached.
    """
    from datasets import load_dataset

    name, _, given = source.partition("@")
    name, _, config = name.partition(":")
    try:
        loaded = load_dataset(name, config or None, split=given or split)
    except Exception as error:
        raise DataError(
            f"{source!r} is not a local file, and the hub has no such data set (split {given or split!r}): "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="Check the name and the network connection, or give a file.",
        ) from error
    for column, feature in loaded.features.items():
        if getattr(feature, "decode", False):  # pictures and audio stay files until a batch is made
            loaded = loaded.cast_column(column, type(feature)(decode=False))
    return (named(row, loaded.features) for row in loaded)


def named(value: Any, feature: Any) -> Any:
    """A value with the names of its class numbers, however deeply nested; -1, which means no label, becomes None."""
    if value is None:
        return None
    if hasattr(feature, "int2str"):
        return None if value == -1 else feature.int2str(value)
    if isinstance(feature, dict):
        # a sequence of dicts comes as a dict of lists
        return {key: named(inner, feature[key]) for key, inner in value.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is None:
        return value
    if isinstance(value, dict):
        return {key: [named(one, inner[key]) for one in column] for key, column in value.items()}
    return [named(one, inner) for one in value]
