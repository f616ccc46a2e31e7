"""Which columns of a source play the roles of a task, and what a cell holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pefttools.errors import DataError

Row = dict[str, Any]

#: a column inside a text that joins several, e.g. "{passage} {question}"
_COLUMN_IN_TEXT = re.compile(r"\{([^{}]+)\}")
_PLAIN = (str, int, float, bool, type(None))


class MissingColumnError(LookupError):
    """A row has no column for a role that needs one; its arguments are column and role."""


def how_to_map(role: str) -> str:
    """How a column is given a role, for hints."""
    return f"Map one: data.columns.{role}=NAME in a recipe, --column {role}=NAME with predict and evaluate."


class Columns:
    """The columns of a source by the roles that they play.

    Args:
        first: a row of the source; decides whether a name with braces is a column or a text that joins several.
        roles: role -> whether every row must have it.
        given: role -> column, if they differ.
        files: roles whose cells may be the bytes of a file.
    """

    def __init__(
        self,
        first: Mapping[str, Any],
        roles: Mapping[str, bool],
        given: Mapping[str, str],
        files: Collection[str] = (),
    ) -> None:
        self.names = {role: given.get(role, role) for role in roles}
        self._required = {role for role, required in roles.items() if required}
        self._parts = {
            role: [name] if name in first else _COLUMN_IN_TEXT.findall(name) or [name]
            for role, name in self.names.items()
        }
        self._files = frozenset(files)
        #: roles that some row had
        self.seen: set[str] = set()

    def pick(self, row: Mapping[str, Any]) -> Row:
        """The cells of a row by role; None if an optional role is missing.

        Raises:
            MissingColumnError: a required role is missing.
            DataError: a cell holds what is not a value.
        """
        return {role: self._value(row, role) for role in self.names}

    def _value(self, row: Mapping[str, Any], role: str) -> Any:
        name, parts = self.names[role], self._parts[role]
        for part in parts:
            if part not in row:
                if role in self._required:
                    raise MissingColumnError(part, role)
                return None
        self.seen.add(role)
        if parts == [name]:
            return file_cell(row[name], name) if role in self._files else cell(row[name], name)
        cells = {part: cell(row[part], part) for part in parts}
        if None in cells.values():
            return None  # the text would say "None"
        return _COLUMN_IN_TEXT.sub(lambda match: str(cells[match[1]]), name)

    def missing(self, roles: Iterable[str]) -> list[tuple[str, str]]:
        """Column and role of each of some roles that no row had."""
        return [(self._parts[role][0], role) for role in roles if role not in self.seen]


def file_cell(value: Any, name: str) -> Any:
    """A cell that may be the bytes of a file, or a file as hub data sets store it; anything else as by `cell`."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["path"] if value["bytes"] is None else value["bytes"]
    return value if isinstance(value, bytes) else cell(value, name)


def cell(value: Any, name: str) -> Any:
    """A cell as JSON has it: numbers that Python keeps as decimals, dates and the like become plain.

    Raises:
        DataError: bytes, or an object of another kind.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [cell(one, name) for one in value]
    if isinstance(value, dict):
        return {str(key): cell(one, name) for key, one in value.items()}
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta | UUID):
        return str(value)
    if hasattr(value, "item") and hasattr(value, "dtype"):  # a scalar of numpy
        return cell(value.item(), name)
    raise DataError(
        f"column {name!r} holds a {type(value).__name__} ({value!r}), which is not text, a number or a list",
        hint="Write it as text.",
    )
