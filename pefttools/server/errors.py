"""Errors as requests receive them: status, code and a message that reveals nothing about the server's files."""

from __future__ import annotations

import re
from typing import Any

from pefttools.errors import (
    ArtifactError,
    BaseModelError,
    CapacityError,
    ContextLengthError,
    DataError,
    PeftToolsError,
    UnknownNameError,
    WriteError,
)
from pefttools.server.answers import UnsuitedError
from pefttools.server.batching import ClosedError, QueueFullError
from pefttools.server.keys import ForbiddenError, UnauthorizedError
from pefttools.server.waiting import GoneError, TooLongError
from pefttools.store.names import BadNameError, NameTakenError
from pefttools.store.reach import StoreError

#: an absolute path of more than one component, or what is left of a file system's URL
_PATH = re.compile(r"(?<![\w.:/])(?:\w+:/)?/(?:[^\s/'\",;()]+/)+(?P<name>[^\s/'\",;:()]*)")
_IN_STORE = re.compile(r".*/adapters/")
#: the first that fits; any other `PeftToolsError` is wrong input
_STATUS: list[tuple[type[PeftToolsError], int, str]] = [
    (UnauthorizedError, 401, "invalid_api_key"),
    (ForbiddenError, 403, "forbidden"),
    (UnknownNameError, 404, "model_not_found"),
    (BadNameError, 404, "model_not_found"),
    (UnsuitedError, 404, "model_not_suited"),
    (NameTakenError, 409, "name_taken"),
    (ContextLengthError, 400, "context_length_exceeded"),
    (DataError, 400, "invalid_text"),
    (BaseModelError, 409, "other_base"),
    (ArtifactError, 422, "damaged_artifact"),
    (QueueFullError, 429, "queue_full"),
    (CapacityError, 503, "no_room"),
    (WriteError, 503, "no_room"),
    (StoreError, 503, "store_unavailable"),
    (ClosedError, 503, "stopping"),
    (TooLongError, 504, "timeout"),
    (GoneError, 499, "gone"),
    (PeftToolsError, 400, "invalid_request"),
]


def error_body(message: str, code: str, status: int) -> dict[str, Any]:
    """An error as OpenAI writes it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_response(error: PeftToolsError) -> tuple[int, dict[str, Any]]:
    """Status and body for an error, which reveal nothing about the server's files."""
    status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    if isinstance(error, StoreError):  # a file system's own messages are for the server's operators
        return status, error_body("the adapter store is currently unavailable", code, status)
    text = error.message if error.hint is None else f"{error.message.rstrip('.')}. {error.hint}"
    return status, error_body(without_paths(text), code, status)


def without_paths(text: str) -> str:
    """A message with only the last component of each path; for paths in a store, the part inside the store."""
    return _PATH.sub(lambda found: _IN_STORE.sub("", found[0]) if "/adapters/" in found[0] else found["name"], text)
