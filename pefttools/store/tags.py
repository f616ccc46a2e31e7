"""Tags of a store's adapters, and who moved them and when."""

from __future__ import annotations

import getpass
import json
import posixpath
import secrets
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pefttools.errors import ArtifactError, ConfigError, UnknownNameError
from pefttools.store.files import StoreFiles, version_number
from pefttools.store.names import check_case, check_tag, is_name
from pefttools.store.reach import StoreError

_TAGS, _HISTORY = "tags", "history"


@dataclass(frozen=True)
class Moved:
    """One move of a tag.

    Attributes:
        time: when, UTC.
        by: who: the user of the machine, or the key of a server.
        tag: its name.
        before: the version that it pointed at; None if there was none.
        version: the version that it points at from then on; None if it was removed.
    """

    time: str
    by: str
    tag: str
    before: int | None
    version: int | None


class Tags:
    """Tags, one small file each, and a file per move that is never changed.

    Args:
        files: the store's files.
    """

    def __init__(self, files: StoreFiles) -> None:
        self._files = files

    def names(self, adapter: str) -> list[str]:
        """An adapter's tags."""
        return [tag for tag in self._files.ls(self._files.path(adapter, _TAGS)) if is_name(tag)]

    def read(self, adapter: str, tag: str) -> int | None:
        """The version that a tag points at; None if there is no such tag.

        Raises:
            ArtifactError: its file does not contain a version.
        """
        try:
            content: bytes = self._files.fs.cat_file(self._files.path(adapter, _TAGS, tag))
        except FileNotFoundError:
            return None
        version = version_number(content.decode("ascii", "replace"))
        if version is None:
            raise ArtifactError(
                f"the tag {adapter}@{tag} is damaged",
                hint=f"Set it again: pefttools store tag {adapter}@VERSION {tag}",
            )
        return version

    def read_all(self, adapter: str) -> tuple[dict[str, int], list[str]]:
        """Tag -> version, and the tags that are damaged."""
        found, damaged = {}, []
        for tag in self.names(adapter):
            try:
                version = self.read(adapter, tag)
            except ArtifactError:
                damaged.append(tag)
            else:
                if version is not None:
                    found[tag] = version
        return found, damaged

    def check(self, adapter: str, tag: str) -> None:
        """Refuse what can't be a tag of an adapter.

        Raises:
            ConfigError: not a valid name, a number, or one that differs from another tag only in case.
        """
        check_tag(tag)
        check_case(tag, self.names(adapter))

    def point(self, adapter: str, tag: str, version: int | None, by: str | None) -> None:
        """Point a tag at a version, or remove it; the caller holds the adapter's lock.

        Args:
            adapter: its name.
            tag: the tag.
            version: number of the version; None to remove the tag.
            by: who does it; None for the user of this machine.
        """
        try:
            before = self.read(adapter, tag)
        except ArtifactError:
            before = None
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        move = Moved(now, by or _user(), tag, before, version)
        # Logged before it is done: an unlogged move is worse than a logged one that did not happen.
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        self._files.write(self._files.path(adapter, _HISTORY, name), json.dumps(asdict(move)))
        path = self._files.path(adapter, _TAGS, tag)
        if version is None:
            self._files.fs.rm_file(path)
        else:
            self._files.write(path, str(version))

    def history(self, adapter: str, tag: str | None = None) -> list[Moved]:
        """Moves of an adapter's tags, or of one of them, oldest first; what can't be read is left out."""
        folder = self._files.path(adapter, _HISTORY)
        found = []
        for name in sorted(one for one in self._files.ls(folder) if one.endswith(".json")):
            try:
                found.append(Moved(**json.loads(self._files.fs.cat_file(posixpath.join(folder, name)))))
            except (OSError, StoreError, ValueError, TypeError):
                continue
        return [move for move in found if tag is None or move.tag == tag]

    def before(self, adapter: str, tag: str) -> int | None:
        """The version that a tag pointed at before its last move; None if there was no such tag.

        Raises:
            UnknownNameError: it was never moved.
            ConfigError: it no longer points at the version of that move.
        """
        moves = self.history(adapter, tag)
        if not moves:
            moved = sorted({move.tag for move in self.history(adapter)})
            raise UnknownNameError("move of the tag", f"{adapter}@{tag}", [f"{adapter}@{one}" for one in moved])
        if self.read(adapter, tag) != moves[-1].version:
            raise ConfigError(
                f"the tag {adapter}@{tag} was moved without a log entry",
                hint="Set it to the version that it should point at.",
            )
        return moves[-1].before


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "unknown"
