"""A store of adapters: immutable versions (``acme@3``) and tags that move (``acme@prod``), on any fsspec file system.

::

    adapters/acme/versions/3/...        an artifact, as it was added; never changed
    adapters/acme/versions/2.removed    its number is never given again
    adapters/acme/tags/prod             "3"

A version stands or does not. On a local disk its folder is renamed into place; elsewhere its manifest, which is written
last, makes it whole.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pefttools.artifact.effect import warn_without_effect
from pefttools.artifact.manifest import Manifest, read_manifest
from pefttools.artifact.reading import Held, hold
from pefttools.errors import ArtifactError, ConfigError, UnknownNameError
from pefttools.store.files import LocalFiles, RemoteFiles, StoreFiles

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Entry:
    """One version.

    Attributes:
        name: of the adapter.
        version: its number, from 1.
        tags: names that point at it now.
        manifest: of its artifact.
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
        options: of the file system, as fsspec takes them.
    """

    def __init__(self, url: str | Path, **options: Any) -> None:
        self.url = str(url)
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise ConfigError(f"{self.url} needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{self.url!r} is no place for a store: {error}") from error
        kind = LocalFiles if isinstance(fs, LocalFileSystem) else RemoteFiles
        self._files: StoreFiles = kind(fs, posixpath.join(root, "adapters"))

    def exists(self) -> bool:
        """Whether there is a store, be it an empty one."""
        return bool(self._files.fs.isdir(self._files.root))

    def check_exists(self) -> None:
        """Refuse a place where there is no store.

        Raises:
            ConfigError: there is none.
        """
        if not self.exists():
            raise ConfigError(f"there is no store at {self.url}", hint="`pefttools store add` makes one.")

    def add(self, artifact: str | Path, name: str, *, tag: str | None = None) -> Entry:
        """Copy an artifact into the store as the next version of an adapter.

        Args:
            artifact: folder of a saved adapter; verified before and after.
            name: of the adapter.
            tag: point this tag at the new version.

        Raises:
            ArtifactError: the artifact is damaged.
            ConfigError: a name that is none, or a store that can't be written.
        """
        check_name(name)
        if tag is not None:
            _check_tag(tag)
        with hold(Path(artifact)) as held:  # what the manifest does not list stays out
            warn_without_effect(held.folder, held.manifest, artifact)
            if tag is None:
                return Entry(name, self._files.add(held.folder, name), (), held.manifest)
            # Locked, so that nobody removes the version before its tag stands.
            with self._files.locked(name):
                version = self._files.add(held.folder, name)
                self._point(name, version, tag)
        return Entry(name, version, (tag,), held.manifest)

    def get(self, reference: str, *, verified: bool = True) -> Path:
        """Folder of a version, verified; from elsewhere it is copied to the cache first.

        Args:
            reference: ``acme@3``, ``acme@prod``, or ``acme`` for the newest version.
            verified: check every file; without it, whoever reads the folder must.

        Raises:
            UnknownNameError: no such adapter, version or tag.
            ArtifactError: the version is damaged.
        """
        while True:
            name, version = self.resolve(reference)
            try:
                folder = self._files.folder(name, version)
                if verified:
                    with hold(folder):
                        pass
                return folder
            except (ArtifactError, OSError):
                if version in self.versions(name):
                    raise
                # Removed between the look and the reading: what does the reference mean now?

    @contextmanager
    def hold(self, reference: str) -> Iterator[Held]:
        """A verified version that can be read to its end, also where somebody removes it meanwhile.

        Raises:
            UnknownNameError: no such adapter, version or tag.
            ArtifactError: the version is damaged.
        """
        with ExitStack() as stack:
            while True:
                name, version = self.resolve(reference)
                try:
                    held = stack.enter_context(hold(self._files.folder(name, version)))
                    break
                except (ArtifactError, OSError):
                    if version in self.versions(name):
                        raise
            yield held

    def resolve(self, reference: str) -> tuple[str, int]:
        """Name and number of the version that a reference means now.

        Raises:
            UnknownNameError: no such adapter, version or tag.
        """
        name, _, which = reference.partition("@")
        versions = self.versions(name) if _NAME.fullmatch(name) else []
        if not versions:
            raise UnknownNameError("adapter", name, self.names(), where=f"the store {self.url}")
        if not which:
            return name, versions[-1]
        if which.isdecimal():
            if int(which) not in versions:
                raise UnknownNameError("version", reference, [f"{name}@{v}" for v in versions])
            return name, int(which)
        version = self._tagged(name, which) if _NAME.fullmatch(which) else None
        if version not in versions:
            raise UnknownNameError("tag", reference, [f"{name}@{tag}" for tag in self.tags(name)])
        return name, version

    def names(self) -> list[str]:
        """Names of all adapters that have a version."""
        found = self._files.ls(self._files.root)
        return sorted(name for name in found if _NAME.fullmatch(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Numbers of an adapter's versions, oldest first."""
        return self._files.versions(name)

    def tags(self, name: str) -> dict[str, int]:
        """Tag -> version."""
        tags = [tag for tag in self._files.ls(self._files.path(name, "tags")) if _NAME.fullmatch(tag)]
        found = {tag: self._tagged(name, tag) for tag in tags}
        return {tag: version for tag, version in found.items() if version is not None}

    def _tagged(self, name: str, tag: str) -> int | None:
        try:
            return int(self._files.fs.cat_file(self._files.path(name, "tags", tag)))
        except FileNotFoundError:
            return None

    def show(self, reference: str) -> Entry:
        """One version with its manifest and tags; its other files are not looked at."""
        while True:
            name, version = self.resolve(reference)
            tags = tuple(sorted(tag for tag, number in self.tags(name).items() if number == version))
            try:
                return Entry(name, version, tags, read_manifest(self._files.folder(name, version)))
            except (ArtifactError, OSError):
                if version in self.versions(name):
                    raise

    def tag(self, name: str, version: int, tag: str) -> None:
        """Point a tag at a version; it moves there if it pointed elsewhere.

        Raises:
            UnknownNameError: no such version.
            ConfigError: a tag that is no name, or a number.
        """
        _check_tag(tag)
        self.resolve(f"{name}@{version}")
        with self._files.locked(name):
            self.resolve(f"{name}@{version}")
            self._point(name, version, tag)

    def _point(self, name: str, version: int, tag: str) -> None:
        self._files.write(self._files.path(name, "tags", tag), str(version))

    def untag(self, name: str, tag: str) -> None:
        """Remove a tag; its version stays."""
        self.resolve(f"{name}@{tag}")
        with self._files.locked(name):
            if tag not in self.tags(name):
                raise UnknownNameError("tag", f"{name}@{tag}", [f"{name}@{one}" for one in self.tags(name)])
            self._files.fs.rm_file(self._files.path(name, "tags", tag))

    def remove(self, reference: str) -> Entry:
        """Remove a version for good; its number is never given again.

        Raises:
            ConfigError: a tag names it, or the reference says no version.
        """
        if "@" not in reference:
            raise ConfigError(f"{reference!r} says no version", hint=f"Write {reference}@NUMBER.")
        name, version = self.resolve(reference)
        with self._files.locked(name):
            entry = self.show(f"{name}@{version}")
            if entry.tags:
                raise ConfigError(f"{entry} is tagged {', '.join(entry.tags)}", hint="Move or remove the tag first.")
            self._files.remove(name, version)
        return entry

    def gc(self, *, keep: int = 1, dry_run: bool = False) -> list[str]:
        """Remove versions that no tag names, but for the newest ones, and what killed writers left.

        Args:
            keep: number of newest versions of each adapter to keep, tagged or not.
            dry_run: remove nothing.

        Returns:
            What was removed, or would be, as ``name@version``.
        """
        if keep < 0:
            raise ConfigError(f"keep must not be negative, not {keep}")
        removed = []
        for name in self.names():
            with self._files.locked(name):
                versions = self.versions(name)
                wanted = {*self.tags(name).values(), *versions[max(0, len(versions) - keep) :]}
                for version in versions:
                    if version not in wanted:
                        if not dry_run:
                            self._files.remove(name, version)
                        removed.append(f"{name}@{version}")
        for name in [] if dry_run else self._files.ls(self._files.root):
            if _NAME.fullmatch(name):
                self._files.sweep(name)
        return removed

    def verify(self) -> dict[str, str]:
        """Check every file of every version; gives what is damaged, by ``name@version``."""
        problems = {}
        for name in self.names():
            for version in self.versions(name):
                try:
                    self.get(f"{name}@{version}")
                except (ArtifactError, OSError) as error:
                    problems[f"{name}@{version}"] = str(error)
        return problems


def check_name(name: str) -> None:
    """Refuse what is no adapter name: names are data, never parts of paths.

    Raises:
        ConfigError: other signs than letters, digits, dot, dash and underscore, or too long.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no adapter name", hint="Letters, digits, '.', '_' and '-'; a letter or digit first."
        )


def _check_tag(tag: str) -> None:
    if not _NAME.fullmatch(tag) or tag.isdecimal():
        raise ConfigError(
            f"{tag!r} is no tag", hint="Letters, digits, '.', '_' and '-', and not a number, which is a version."
        )
