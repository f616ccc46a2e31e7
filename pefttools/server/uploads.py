"""Pictures and sounds that come with a request. Their bytes come with it: no path and no address is looked up."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pefttools.data import Table
from pefttools.errors import DataError


class FileInput(BaseModel):
    """A picture or a sound: the bytes of a file, in base64."""

    model_config = ConfigDict(extra="forbid")

    base64: Annotated[str, Field(min_length=1, description="of the whole file")]

    def content(self) -> bytes:
        """The file's bytes.

        Raises:
            DataError: it is no base64.
        """
        try:
            return base64.b64decode(self.base64, validate=True)
        except ValueError as error:  # of letters that are no ASCII it is not binascii's own
            raise DataError(f"not valid base64: {error}") from error


def check_files(rows: Sequence[Mapping[str, Any]], roles: Collection[str]) -> None:
    """Refuse rows with files where none belong, or with something else where they do, such as a path.

    Args:
        rows: cells by column role.
        roles: those that hold files.

    Raises:
        DataError: names row and role.
    """
    for index, row in enumerate(rows, 1):
        for role, cell in row.items():
            if isinstance(cell, FileInput) != (role in roles):
                wanted = 'a file: {"base64": "..."}' if role in roles else "a text or a list of texts"
                raise DataError(f"row {index}: {role} must be {wanted}")


def decoded(table: Table) -> Table:
    """The same rows with the bytes of their files.

    Raises:
        DataError: no base64; names row and column.
    """
    rows = []
    for index, row in enumerate(table.rows):
        try:
            rows.append({role: one.content() if isinstance(one, FileInput) else one for role, one in row.items()})
        except DataError as error:
            role = next(role for role, one in row.items() if isinstance(one, FileInput))
            raise table.error(index, role, error.message) from error
    return replace(table, rows=rows)
