"""Pictures and sounds that come with a request. Their bytes come with it: no path and no address is looked up."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

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
        except binascii.Error as error:
            raise DataError(f"no base64: {error}") from error


def with_files(rows: Collection[Mapping[str, Any]], roles: Collection[str]) -> list[dict[str, Any]]:
    """Rows whose files are bytes.

    Args:
        rows: cells by column role.
        roles: those that hold files.

    Raises:
        DataError: a file where none belongs, something else where one does, or no base64; names row and role.
    """
    return [{role: _cell(cell, index, role, role in roles) for role, cell in row.items()} for index, row in
            enumerate(rows, 1)]  # fmt: skip


def _cell(cell: Any, index: int, role: str, is_file: bool) -> Any:
    if isinstance(cell, FileInput) != is_file:
        wanted = 'a file: {"base64": "..."}' if is_file else "a text or a list of texts"
        raise DataError(f"row {index}: {role} must be {wanted}")
    if not is_file:
        return cell
    try:
        return cell.content()
    except DataError as error:
        raise DataError(f"row {index}, {role}: {error.message}") from error
