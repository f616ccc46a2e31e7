"""A file system whose failures are reported as the store's."""

from __future__ import annotations

import functools
from typing import Any

from pefttools.errors import PeftToolsError

#: errors that the store itself expects and handles
_ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


class StoreError(PeftToolsError):
    """A store that can't be reached, or refuses to be read or written."""

    exit_code = 1


class Reached:
    """An fsspec file system; any failure in it is a `StoreError`, whatever its package raises.

    Args:
        fs: the file system.
        url: the store's URL.
    """

    def __init__(self, fs: Any, url: str) -> None:
        self._fs = fs
        self._url = url

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def translated(*args: Any, **options: Any) -> Any:
            try:
                return found(*args, **options)
            except (*_ANSWERS, PeftToolsError):
                raise
            except Exception as error:
                summary = " ".join(str(error).split())[:300]
                raise StoreError(
                    f"the store {self._url} can't be used: {summary or type(error).__name__}",
                    hint="Check the URL, the network and your permissions there.",
                ) from error

        return translated
