"""What a cell of a label column says, whatever file it came from."""

from __future__ import annotations

import functools
import math
import re
from decimal import Decimal
from typing import Any

from pefttools.errors import DataError

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
#: zero-width space, word joiner and byte order mark
_INVISIBLE = "\u200b\u2060\ufeff"


def label_text(value: Any) -> str | None:
    """The label of a cell; None if it is missing.

    White space at the ends is not part of a label. Numbers are the same label if they have the same value, whether
    written as 1, 1.0, "1" or "1.0"; a boolean is "True" or "False", not a number.

    Raises:
        DataError: a list or something else that is not one label.
    """
    if type(value) is str:
        return _written(value)
    if hasattr(value, "item"):
        value = value.item()  # a scalar of numpy
    if isinstance(value, Decimal) and not value.is_nan():
        value = int(value) if value == value.to_integral_value() else float(value)
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return str(int(value)) if whole else repr(value)
    if isinstance(value, list | tuple | set | dict | bytes):
        raise DataError(
            f"{value!r} is not one label",
            hint="This task takes one label per row; several per row are multi-label or token classification.",
        )
    return _written(str(value))


@functools.lru_cache(maxsize=4096)  # every row is looked up several times, and labels are few
def _written(label: str) -> str | None:
    text = label.strip().strip(_INVISIBLE).strip()
    match = _WHOLE.fullmatch(text)
    return (match[1] if match else text) or None
