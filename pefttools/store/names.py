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
    """A name that is too similar to an existing one."""


def is_name(text: str) -> bool:
    """Whether it may name an adapter or a tag."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Refuse what is not an adapter name.

    Raises:
        BadNameError: characters other than letters, digits, dot, dash and underscore, or too long.
    """
    if not is_name(name):
        raise BadNameError(
            f"{short(name)!r} is not an adapter name",
            hint="Use letters, digits, '.', '_' and '-', with a letter or digit first.",
        )


def check_tag(tag: str) -> None:
    """Refuse what is not a tag.

    Raises:
        BadNameError: as `check_name`, or the tag is a number, which is a version.
    """
    if not is_name(tag) or tag.isdecimal():
        raise BadNameError(
            f"{short(tag)!r} is not a tag",
            hint="Use letters, digits, '.', '_' and '-', but not just a number, which is a version.",
        )


def check_case(name: str, others: Iterable[str]) -> None:
    """Refuse a second name that would be the same on a case-insensitive file system.

    Raises:
        NameTakenError: names the other.
    """
    for other in others:
        if other != name and other.casefold() == name.casefold():
            raise NameTakenError(
                f"{name!r} differs from {other!r} only in upper and lower case",
                hint=f"Use {other!r}, or a different name.",
            )


def short(reference: str) -> str:
    """A reference for a message, truncated if it is long."""
    return reference if len(reference) <= 200 else f"{reference[:200]}..."
