"""API keys: who may use and manage which adapters. The file holds digests, never keys."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pefttools.errors import ConfigError, PeftToolsError


class UnauthorizedError(PeftToolsError):
    """No key, or one that nobody has: HTTP 401."""


class ForbiddenError(PeftToolsError):
    """A key that may not do this: HTTP 403."""


class Caller(BaseModel):
    """One entry of the key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    adapters: tuple[str, ...] = ()
    manage: tuple[str, ...] = ()

    def may_use(self, name: str) -> bool:
        """Whether an adapter of this name may answer for the caller."""
        return any(fnmatchcase(name, pattern) for pattern in (*self.adapters, *self.manage))

    def may_manage(self, name: str) -> bool:
        """Whether the caller may load and unload it and move its tags."""
        return any(fnmatchcase(name, pattern) for pattern in self.manage)


#: who calls where there is no key file
EVERYBODY = Caller(id="everybody", sha256="0" * 64, adapters=("*",), manage=("*",))


class Keys:
    """The callers of a key file.

    Args:
        file: YAML, a list of entries: id, sha256, adapters, manage (patterns of names); None: no keys are needed.

    Raises:
        ConfigError: it can't be read, or an entry is wrong.
    """

    def __init__(self, file: Path | None) -> None:
        self.needed = file is not None
        if file is not None and not file.is_file():
            raise ConfigError(f"there is no key file {file}", hint="Make one with `pefttools api-key`.")
        self.callers: list[Caller] = []
        if file is None:
            return
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            self.callers = [Caller.model_validate(entry) for entry in content or []]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, TypeError) as error:
            raise ConfigError(f"the key file {file} can't be read: {error}") from error

    def caller(self, authorization: str | None) -> Caller:
        """Who calls with this ``Authorization`` header.

        Raises:
            UnauthorizedError: nobody known.
        """
        if not self.needed:
            return EVERYBODY
        scheme, _, key = (authorization or "").partition(" ")
        given = digest(key)
        found = None
        for one in self.callers:  # all of them, so that the time tells nothing
            if hmac.compare_digest(one.sha256, given):
                found = one
        if found is None or scheme.lower() != "bearer" or not key:
            raise UnauthorizedError("a valid API key is needed", hint="Authorization: Bearer KEY")
        return found


def digest(key: str) -> str:
    """What stands in the file for a key. Keys are long and random, so that a plain digest can't be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh key: 256 random bits."""
    return f"pt-{secrets.token_urlsafe(32)}"
