"""Names of adapters and tags: data, never parts of paths."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pefttools.errors import ConfigError

#: how names and tags are written
PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(PATTERN)


class BadNameError(ConfigError):
    """A text that can't be a name of an adapter or a tag."""


class NameTakenError(ConfigError):
    """A name that is too much like one that there is."""


def is_name(text: str) -> bool:
    """Whether it may name an adapter or a tag."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Refuse what is not an adapter name.

    Raises:
        BadNameError: other signs than letters, digits, dot, dash and underscore, or too long.
    """
    if not is_name(name):
        raise BadNameError(
            f"{short(name)!r} is not an adapter name",
            hint="Letters, digits, '.', '_' and '-'; a letter or digit first.",
        )


def check_tag(tag: str) -> None:
    """Refuse what is not a tag.

    Raises:
        BadNameError: as `check_name`, or a number, which is a version.
    """
    if not is_name(tag) or tag.isdecimal():
        raise BadNameError(
            f"{short(tag)!r} is not a tag",
            hint="Letters, digits, '.', '_' and '-', and not a number, which is a version.",
        )


def check_case(name: str, others: Iterable[str]) -> None:
    """Refuse a second name that would be the same one on a disk that knows no case.

    Raises:
        NameTakenError: names the other.
    """
    for other in others:
        if other != name and other.casefold() == name.casefold():
            raise NameTakenError(
                f"{name!r} differs from {other!r} only in upper and lower case", hint=f"Write {other!r}, or another."
            )


def short(reference: str) -> str:
    """A reference for a message, however long it is."""
    return reference if len(reference) <= 200 else f"{reference[:200]}..."
