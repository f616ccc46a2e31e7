"""Images and audio sent with a request. Their bytes are part of it: no path and no URL is looked up."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pefttools.data import Table
from pefttools.errors import DataError


class FileInput(BaseModel):
    """An image or audio file: its bytes, in base64."""

    model_config = ConfigDict(extra="forbid")

    base64: Annotated[str, Field(min_length=1, description="of the whole file")]

    def content(self) -> bytes:
        """The file's bytes.

        Raises:
            DataError: it is not base64.
        """
        try:
            return base64.b64decode(self.base64, validate=True)
        except ValueError as error:  # for non-ASCII letters it is not binascii's own error
            raise DataError(f"not valid base64: {error}") from error


def check_files(rows: Sequence[Mapping[str, Any]], roles: Collection[str]) -> None:
    """Refuse rows with files where none belong, or with something else, such as a path, where a file belongs.

    Args:
        rows: cells by column role.
        roles: those that are files.

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
        DataError: not base64; names row and column.
    """
    rows = []
    for index, row in enumerate(table.rows):
        try:
            rows.append({role: one.content() if isinstance(one, FileInput) else one for role, one in row.items()})
        except DataError as error:
            role = next(role for role, one in row.items() if isinstance(one, FileInput))
            raise table.error(index, role, error.message) from error
    return replace(table, rows=rows)
