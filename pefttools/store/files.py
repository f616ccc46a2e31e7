"""How a store keeps its versions: on a local disk, and on any other fsspec file system."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from filelock import FileLock

from pefttools.artifact.manifest import MANIFEST, SIGNATURE, read_manifest, verify_files
from pefttools.files import cache_dir, folder_atomic, numbered_folder, write_bytes_atomic, write_text_atomic
from pefttools.store.reach import StoreError

REMOVED = ".removed"
_CLAIM = "claim"
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
#: seconds after which leftovers of a killed writer may be removed
_STALE = 3600.0


def version_number(text: str) -> int | None:
    """A version number in its only valid form: no leading zeros, no digits of other scripts; None for anything else."""
    return int(text) if _VERSION.fullmatch(text) else None


class StoreFiles(ABC):
    """Folders of versions below a root.

    Args:
        fs: an fsspec file system.
        root: folder in it that holds one folder per adapter.
    """

    def __init__(self, fs: Any, root: str) -> None:
        self.fs = fs
        self.root = root

    def path(self, name: str, *parts: str) -> str:
        """A path below an adapter's folder."""
        return posixpath.join(self.root, name, *parts)

    def ls(self, folder: str) -> list[str]:
        """Names in a folder; none if it does not exist."""
        self.fs.invalidate_cache()
        try:
            return [posixpath.basename(path.rstrip("/")) for path in self.fs.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def versions(self, name: str) -> list[int]:
        """Numbers of complete versions, oldest first."""
        listed = self._numbers(name)
        while True:
            whole = [number for number in listed if self.is_whole(name, number)]
            # One that was removed since it was listed may have been followed by another.
            again = listed if len(whole) == len(listed) else self._numbers(name)
            if again == listed:
                return whole
            listed = again

    def _numbers(self, name: str) -> list[int]:
        numbers = map(version_number, self.ls(self.path(name, "versions")))
        return sorted(number for number in numbers if number is not None)

    def is_whole(self, name: str, version: int) -> bool:
        """Whether a version has its manifest."""
        return bool(self.fs.exists(self.path(name, "versions", str(version), MANIFEST)))

    def next_version(self, name: str) -> int:
        """A number that no version has or had, and that nothing else uses."""
        numbers = [version_number(one.removesuffix(REMOVED)) for one in self.ls(self.path(name, "versions"))]
        return max((number for number in numbers if number is not None), default=0) + 1

    def forget(self, name: str, version: int) -> bool:
        """Drop this machine's copy of a version; False if it keeps none."""
        return False

    @abstractmethod
    def add(self, artifact: Path, name: str) -> int:
        """Copy an artifact in, as a version that appears only when complete; returns its number."""

    @abstractmethod
    def folder(self, name: str, version: int) -> Path:
        """A local folder with the version's files."""

    @abstractmethod
    def remove(self, name: str, version: int) -> None:
        """Remove a version, hiding it first; its number is marked as used."""

    @abstractmethod
    def sweep(self, name: str) -> None:
        """Remove what killed writers left behind, once it is old."""

    @abstractmethod
    def write(self, path: str, text: str) -> None:
        """Write a small file in one step."""

    @abstractmethod
    def locked(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Exclusive right to move tags or remove versions of an adapter, if the file system can lock."""


class LocalFiles(StoreFiles):
    """On a local disk: a version is renamed into place."""

    # Every request to a server looks up a name: fsspec would take most of that time.
    def ls(self, folder: str) -> list[str]:
        try:
            return [path.name for path in Path(folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"the store's {folder} can't be read: {error.strerror}") from error

    def is_whole(self, name: str, version: int) -> bool:
        return Path(self.path(name, "versions", str(version), MANIFEST)).is_file()

    def add(self, artifact: Path, name: str) -> int:
        def fill(new: Path) -> None:
            shutil.copytree(artifact, new, dirs_exist_ok=True)
            verify_files(new, read_manifest(new))

        return numbered_folder(Path(self.path(name, "versions")), fill, lambda: self.next_version(name))

    def folder(self, name: str, version: int) -> Path:
        return Path(self.path(name, "versions", str(version)))

    def remove(self, name: str, version: int) -> None:
        folder = self.folder(name, version)
        self.write(f"{folder}{REMOVED}", "")
        away = folder.with_name(f".{version}.{secrets.token_hex(4)}")
        folder.rename(away)
        shutil.rmtree(away)

    def sweep(self, name: str) -> None:
        for path in (*Path(self.path(name, "versions")).glob(".*"), *Path(self.path(name, "tags")).glob(".*")):
            with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                if time.time() - path.stat().st_mtime > _STALE:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def write(self, path: str, text: str) -> None:
        write_text_atomic(Path(path), text)

    def locked(self, name: str) -> contextlib.AbstractContextManager[Any]:
        Path(self.path(name)).mkdir(parents=True, exist_ok=True)
        lock: contextlib.AbstractContextManager[Any] = FileLock(self.path(name, ".lock"))
        return lock


class RemoteFiles(StoreFiles):
    """Elsewhere: a number is claimed first, and the manifest, written last, completes a version."""

    def add(self, artifact: Path, name: str) -> int:
        mark = secrets.token_hex(16).encode()
        while True:
            version = self.next_version(name)
            folder = self.path(name, "versions", str(version))
            claim = posixpath.join(folder, _CLAIM)
            try:
                self.fs.pipe_file(claim, mark, mode="create")
            except FileExistsError:
                continue
            # On file systems that can't create exclusively, the last writer has the number.
            if self.fs.cat_file(claim) == mark:
                break
        for path in sorted(artifact.iterdir(), key=lambda path: path.name == MANIFEST):
            self.fs.put_file(str(path), posixpath.join(folder, path.name))
        return version

    def folder(self, name: str, version: int) -> Path:
        # A version never changes, so that a copy under its manifest's digest stays valid forever.
        remote, manifest, target = self._copy(name, version)
        if not target.is_dir():
            with folder_atomic(target) as folder:
                (folder / MANIFEST).write_bytes(manifest)
                files = read_manifest(folder).files
                for file in files:
                    if Path(file).name == file:
                        self.fs.get_file(posixpath.join(remote, file), str(folder / file))
                verify_files(folder, read_manifest(folder))
        # Each time: a signature may be added or replaced later, and other stores may have the same artifact.
        try:
            write_bytes_atomic(target / SIGNATURE, self.fs.cat_file(posixpath.join(remote, SIGNATURE)))
        except FileNotFoundError:
            (target / SIGNATURE).unlink(missing_ok=True)
        return target

    def forget(self, name: str, version: int) -> bool:
        target = self._copy(name, version)[2]
        shutil.rmtree(target, ignore_errors=True)
        return not target.exists()

    def _copy(self, name: str, version: int) -> tuple[str, bytes, Path]:
        """Folder of a version, its manifest, and where this machine keeps a copy."""
        remote = self.path(name, "versions", str(version))
        manifest: bytes = self.fs.cat_file(posixpath.join(remote, MANIFEST))
        return remote, manifest, cache_dir("store") / hashlib.sha256(manifest).hexdigest()

    def remove(self, name: str, version: int) -> None:
        folder = self.path(name, "versions", str(version))
        self.write(f"{folder}{REMOVED}", "")
        self.fs.rm_file(posixpath.join(folder, MANIFEST))
        self.fs.rm(folder, recursive=True)

    def sweep(self, name: str) -> None:
        for number in self.ls(self.path(name, "versions")):
            folder = self.path(name, "versions", number)
            claim = posixpath.join(folder, _CLAIM)
            if (
                version_number(number) is None
                or self.fs.exists(posixpath.join(folder, MANIFEST))
                or not self.fs.exists(claim)
            ):
                continue
            if time.time() - self.fs.modified(claim).timestamp() > _STALE:
                self.fs.rm(folder, recursive=True)

    def write(self, path: str, text: str) -> None:
        self.fs.pipe_file(path, text.encode())

    def locked(self, name: str) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()
