"""A store of adapters: immutable versions (``acme@3``) and movable tags (``acme@prod``), on any fsspec file system.

::

    adapters/acme/versions/3/...        an artifact, as it was added; never changed
    adapters/acme/versions/2.removed    its number is never reused
    adapters/acme/tags/prod             "3"
    adapters/acme/history/...           who moved which tag when

A version is there completely or not at all. On a local disk its folder is renamed into place; elsewhere its manifest,
which is written last, completes it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pefttools.artifact.effect import warn_without_effect
from pefttools.artifact.manifest import Manifest, read_manifest
from pefttools.artifact.reading import Held, hold, hold_weights
from pefttools.errors import ArtifactError, ConfigError, UnknownNameError
from pefttools.store.files import LocalFiles, RemoteFiles, StoreFiles, version_number
from pefttools.store.maintenance import collect, damages
from pefttools.store.names import check_case, check_name, is_name, short
from pefttools.store.reach import Reached
from pefttools.store.tags import Moved, Tags

_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """One version.

    Attributes:
        name: name of the adapter.
        version: its number, from 1.
        tags: names that currently point at it.
        manifest: its artifact's manifest.
    """

    name: str
    version: int
    tags: tuple[str, ...]
    manifest: Manifest

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Store:
    """Versioned adapters.

    Args:
        url: a folder, or an fsspec URL such as ``s3://bucket/adapters``.
        options: options of the file system, as fsspec takes them.
    """

    def __init__(self, url: str | Path, **options: Any) -> None:
        self.url = str(url)
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise ConfigError(f"{self.url} needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{self.url!r} is not a valid location for a store: {error}") from error
        kind = LocalFiles if isinstance(fs, LocalFileSystem) else RemoteFiles
        self._files: StoreFiles = kind(Reached(fs, self.url), posixpath.join(root, "adapters"))
        self._tags = Tags(self._files)

    def exists(self) -> bool:
        """Whether there is a store, even an empty one."""
        return bool(self._files.fs.isdir(self._files.root))

    def check_exists(self) -> None:
        """Refuse a location where there is no store.

        Raises:
            ConfigError: there is none.
        """
        if not self.exists():
            raise ConfigError(f"there is no store at {self.url}", hint="Create one with `pefttools store add`.")

    def add(
        self,
        artifact: str | Path,
        name: str,
        *,
        tag: str | None = None,
        by: str | None = None,
        probe: bool = False,
        max_pooled_bytes: int | None = None,
    ) -> Entry:
        """Copy an artifact into the store as the next version of an adapter.

        Args:
            artifact: folder of a saved adapter; verified before and after.
            name: name of the adapter.
            tag: point this tag at the new version.
            by: who does it; None for the user of this machine.
            probe: load it on its base first, and check that it gives finite outputs.
            max_pooled_bytes: maximum bytes that it may take of a pool's memory; None for no limit.

        Raises:
            ArtifactError: the artifact is damaged, or does not answer.
            BaseModelError: its base can't be found, for the probe or the size.
            ConfigError: it would take more of a pool; an invalid name, or a store that can't be written.
        """
        check_name(name)
        check_case(name, self._files.ls(self._files.root))
        if tag is not None:
            self._tags.check(name, tag)
        with hold_weights(Path(artifact)) as held:  # what the manifest does not list is left out
            warn_without_effect(held.folder, held.manifest, artifact)
            if probe:
                from pefttools.artifact.probe import check_answers  # which loads torch and more

                check_answers(held)
            if max_pooled_bytes is not None:
                from pefttools.artifact.pooled import check_pooled_size  # which loads torch and more

                check_pooled_size(held, max_pooled_bytes)
            if tag is None:
                return Entry(name, self._files.add(held.folder, name), (), held.manifest)
            # Locked, so that nobody removes the version before its tag is set.
            with self._files.locked(name):
                version = self._files.add(held.folder, name)
                self._tags.point(name, tag, version, by)
        return Entry(name, version, (tag,), held.manifest)

    def get(self, reference: str, *, verified: bool = True) -> Path:
        """Folder of a version, verified; a remote one is copied to the cache first.

        Args:
            reference: ``acme@3``, ``acme@prod``, or ``acme`` for the newest version.
            verified: check every file; without it, whoever reads the folder must.

        Raises:
            UnknownNameError: no such adapter, version or tag.
            ArtifactError: the version is damaged.
        """
        if not verified:
            return self._looked_up(reference, self._files.folder)
        with ExitStack() as stack:
            return self._looked_up(reference, lambda *one: self._held(stack, *one)[0])

    @contextmanager
    def hold(self, reference: str) -> Iterator[Held]:
        """A verified version that can be read to its end, even if somebody removes it meanwhile.

        Raises:
            UnknownNameError: no such adapter, version or tag.
            ArtifactError: the version is damaged.
        """
        with ExitStack() as stack:
            yield self._looked_up(reference, lambda *one: self._held(stack, *one)[1])

    def _looked_up(self, reference: str, read: Callable[[str, int], _T]) -> _T:
        """The result of `read` for the version that a reference means, looked up again if it was removed meanwhile."""
        while True:
            name, version = self.resolve(reference)
            try:
                return read(name, version)
            except (ArtifactError, OSError):
                if version in self.versions(name):
                    raise

    def _held(self, stack: ExitStack, name: str, version: int) -> tuple[Path, Held]:
        folder = self._files.folder(name, version)
        try:
            return folder, stack.enter_context(hold(folder))
        except ArtifactError:
            if not self._files.forget(name, version):
                raise
        folder = self._files.folder(name, version)
        return folder, stack.enter_context(hold(folder))

    def resolve(self, reference: str) -> tuple[str, int]:
        """Name and number of the version that a reference currently means.

        Raises:
            UnknownNameError: no such adapter, version or tag.
        """
        name, _, which = reference.partition("@")
        versions = self.versions(name) if is_name(name) else []
        if not versions:
            raise UnknownNameError("adapter", short(name), self.names(), where=f"the store {self.url}")
        if not which:
            return name, versions[-1]
        if which.isdecimal():
            number = version_number(which)
            if number not in versions:
                raise UnknownNameError("version", short(reference), [f"{name}@{v}" for v in versions])
            return name, number
        version = self._tags.read(name, which) if is_name(which) else None
        if version not in versions:
            raise UnknownNameError("tag", short(reference), [f"{name}@{tag}" for tag in self.tags(name)])
        return name, version

    def names(self) -> list[str]:
        """Names of all adapters that have a version."""
        found = self._files.ls(self._files.root)
        return sorted(name for name in found if is_name(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Numbers of an adapter's versions, oldest first."""
        return self._files.versions(name)

    def tags(self, name: str) -> dict[str, int]:
        """Tag -> version; damaged ones are left out, see `damaged_tags`."""
        return self._tags.read_all(name)[0]

    def damaged_tags(self, name: str) -> list[str]:
        """Tags whose files do not contain a version."""
        return self._tags.read_all(name)[1]

    def show(self, reference: str) -> Entry:
        """One version with its manifest and tags; its other files are not checked."""
        return self._looked_up(reference, self._entry)

    def _entry(self, name: str, version: int) -> Entry:
        tags = tuple(sorted(tag for tag, number in self.tags(name).items() if number == version))
        return Entry(name, version, tags, read_manifest(self._files.folder(name, version)))

    def tag(self, name: str, version: int, tag: str, *, by: str | None = None) -> None:
        """Point a tag at a version; it moves there if it pointed elsewhere.

        Args:
            name: name of the adapter.
            version: number of the version.
            tag: the tag.
            by: who does it; None for the user of this machine.

        Raises:
            UnknownNameError: no such version.
            ConfigError: a tag that is not a valid name, or is a number.
        """
        self._tags.check(name, tag)
        self.resolve(f"{name}@{version}")
        with self._files.locked(name):
            self.resolve(f"{name}@{version}")
            self._tags.point(name, tag, version, by)

    def undo(self, name: str, tag: str, *, by: str | None = None) -> int | None:
        """Undo a tag's last move; returns the version that it points at again, None if there was no such tag before.

        Raises:
            UnknownNameError: it was never moved, or the version that it pointed at is gone.
        """
        check_name(name)
        with self._files.locked(name):
            version = self._tags.before(name, tag)
            if version is not None:
                self.resolve(f"{name}@{version}")
            self._tags.point(name, tag, version, by)
        return version

    def history(self, name: str) -> list[Moved]:
        """Who moved which tag of an adapter and when, oldest first."""
        check_name(name)
        return self._tags.history(name)

    def untag(self, name: str, tag: str, *, by: str | None = None) -> None:
        """Remove a tag; its version stays."""
        check_name(name)
        with self._files.locked(name):
            if tag not in self._tags.names(name):
                raise UnknownNameError("tag", f"{name}@{tag}", [f"{name}@{one}" for one in self.tags(name)])
            self._tags.point(name, tag, None, by)

    def remove(self, reference: str) -> Entry:
        """Remove a version for good; its number is never reused.

        Raises:
            ConfigError: a tag points at it, or the reference names no version.
        """
        if "@" not in reference:
            raise ConfigError(f"{reference!r} names no version", hint=f"Write {reference}@NUMBER.")
        name, version = self.resolve(reference)
        with self._files.locked(name):
            entry = self.show(f"{name}@{version}")
            if damaged := self.damaged_tags(name):
                raise ConfigError(
                    f"a damaged tag of {name} may point at {entry}: {', '.join(damaged)}",
                    hint="Set the tag again first.",
                )
            if entry.tags:
                raise ConfigError(f"{entry} is tagged {', '.join(entry.tags)}", hint="Move or remove the tag first.")
            self._files.remove(name, version)
        return entry

    def gc(self, *, keep: int = 1, dry_run: bool = False) -> list[str]:
        """Remove versions that no tag points at, except the newest ones, and leftovers of killed writers.

        Args:
            keep: number of newest versions of each adapter to keep, tagged or not.
            dry_run: remove nothing.

        Returns:
            What was removed, or would be, as ``name@version``.
        """
        if keep < 0:
            raise ConfigError(f"keep must not be negative, not {keep}")
        return collect(self, self._files, keep, dry_run)

    def verify(self) -> dict[str, str]:
        """Check every file of every version; returns what is damaged, by ``name@version``."""
        return damages(self)
