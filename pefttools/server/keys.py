"""API keys: who may use and manage which adapters. The file holds digests, never keys."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections import Counter
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pefttools.errors import ConfigError, PeftToolsError

#: seconds between two checks of the key file
_LOOK = 1.0
_log = logging.getLogger(__name__)


class UnauthorizedError(PeftToolsError):
    """No key, or an unknown one: HTTP 401."""


class ForbiddenError(PeftToolsError):
    """A key that may not do this: HTTP 403."""


class Caller(BaseModel):
    """One entry of the key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    adapters: tuple[str, ...] = ()
    manage: tuple[str, ...] = ()
    expires: datetime | None = None

    def expired(self) -> bool:
        """Whether the key has expired; a time without a time zone is in UTC."""
        if self.expires is None:
            return False
        end = self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=UTC)
        return datetime.now(UTC) >= end

    def may_use(self, name: str) -> bool:
        """Whether an adapter of this name may answer for the caller."""
        return any(fnmatchcase(name, pattern) for pattern in (*self.adapters, *self.manage))

    def may_manage(self, name: str) -> bool:
        """Whether the caller may load and unload it and move its tags."""
        return any(fnmatchcase(name, pattern) for pattern in self.manage)


#: the caller if there is no key file
EVERYBODY = Caller(id="everybody", sha256="0" * 64, adapters=("*",), manage=("*",))


class Keys:
    """The callers of a key file, which is read again when it changes: a key that is removed is refused from then on.

    Args:
        file: YAML, a list of entries: id, sha256, adapters, manage (patterns of names), expires (a date or time); None
            if no keys are needed.

    Raises:
        ConfigError: it can't be read, or an entry is wrong.
    """

    def __init__(self, file: Path | None) -> None:
        self.needed = file is not None
        if file is not None and not file.is_file():
            raise ConfigError(f"there is no key file {file}", hint="Make one with `pefttools api-key`.")
        self._file = file
        self._stamp: tuple[int, ...] = ()
        self._looked = 0.0
        self.callers: list[Caller] = []
        if file is not None:
            self._stamp = _stamp(file)
            self.callers = _read(file)

    def _refresh(self) -> None:
        """Check the file, at most once a second. While it can't be read, the last known entries apply."""
        if self._file is None or time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        try:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self.callers = _read(self._file)
                self._stamp = stamp
        except (ConfigError, OSError) as error:
            _log.error("the key file was not read again: %s", error)

    def caller(self, authorization: str | None) -> Caller:
        """The caller with this ``Authorization`` header.

        Raises:
            UnauthorizedError: no known caller.
        """
        if not self.needed:
            return EVERYBODY
        self._refresh()
        scheme, _, key = (authorization or "").partition(" ")
        given = digest(key)
        found = None
        for one in self.callers:  # all of them, so that the timing reveals nothing
            if hmac.compare_digest(one.sha256, given):
                found = one
        if found is None or scheme.lower() != "bearer" or not key:
            raise UnauthorizedError("a valid API key is required", hint="Authorization: Bearer KEY")
        if found.expired():
            raise UnauthorizedError("this API key has expired")
        return found


def _stamp(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _read(file: Path) -> list[Caller]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        callers = [Caller.model_validate(entry) for entry in content or []]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise ConfigError(f"the key file {file} can't be read: {error}") from error
    for name in ("id", "sha256"):
        counts = Counter(getattr(one, name) for one in callers)
        if twice := [value for value, count in counts.items() if count > 1]:
            raise ConfigError(f"the key file {file} has two entries with the {name} {twice[0]!r}")
    return callers


def digest(key: str) -> str:
    """What the file holds for a key. Keys are long and random, so that a plain digest can't be reversed by guessing."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh key: 256 random bits."""
    return f"pt-{secrets.token_urlsafe(32)}"
