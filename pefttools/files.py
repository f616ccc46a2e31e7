"""Digests, atomic writes and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pefttools.errors import ConfigError, WriteError
from pefttools.system import exchange, sync_folder

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    *_NO_SPACE,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
)


def cache_root() -> Path:
    """The cache: ``$PEFTTOOLS_CACHE``, else ``~/.cache/pefttools``."""
    root = os.environ.get("PEFTTOOLS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "pefttools")
    return Path(root).expanduser()


def cache_dir(*parts: str) -> Path:
    """A folder below the cache, created if missing."""
    folder = cache_root().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """The one way in which pefttools writes JSON: keys as given, two spaces, a newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text_atomic(path: Path, text: str) -> None:
    """As `write_bytes_atomic`, in UTF-8."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees, and a killed writer leaves, the old content or the new, never a part."""
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its files are private to their owner, whatever the umask.
        temporary = _temporary_path(path)
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, with these permissions from its first byte on.

    Raises:
        WriteError: it exists, or can't be written; no part of it is left then.
    """
    with _writable(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def folder_atomic(target: Path, *, over: str | None = None) -> Iterator[Path]:
    """A temporary folder next to `target` that takes its place as a whole when the block ends without an error.

    An existing target is exchanged in one step where the system can (Linux), so that at every moment the name
    holds the old folder or the new one.

    Args:
        target: the folder.
        over: see `check_replaceable`; None to replace whatever is there.
    """
    if over is not None:
        check_replaceable(target, over)
    with _staged(target) as folder:
        yield folder
        with _writable(target):
            _sync_tree(folder)
            _move_folder(folder, target)
            sync_folder(target.parent)


def numbered_folder(parent: Path, fill: Callable[[Path], None], next_number: Callable[[], int]) -> int:
    """Fill a new folder below `parent` that appears, complete, under a number; several writers get one each.

    Args:
        parent: where to create it.
        fill: writes the files into the folder it is given.
        next_number: the number to try; called again if another writer was faster.

    Returns:
        The number.
    """
    with _staged(parent / "new") as folder:
        fill(folder)
        with _writable(parent):
            _sync_tree(folder)
            while True:
                number = next_number()
                try:
                    folder.rename(parent / str(number))
                except OSError as error:
                    # A folder can't be renamed onto one that has files.
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                else:
                    sync_folder(parent)
                    return number


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A temporary folder next to `target`, removed at the end unless it was moved."""
    with _writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = _temporary_path(target)
        folder.mkdir()
    try:
        yield folder
    except Exception as error:
        if (why := _out_of_space(error)) is not None:
            raise _cannot_write(target, why) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_as_new(folder: Path) -> None:
    """Give a folder and everything in it the permissions that new files and folders get there.

    Some libraries write files that only their owner may read, whatever the umask. The umask's effect is read off a file
    and a folder created for this purpose: reading the umask itself would mean changing it for a moment, for every
    thread.
    """
    probe = _temporary_path(folder / "probe")
    try:
        probe.mkdir()
        (probe / "file").touch(exist_ok=False)
        of_folders, of_files = (stat.S_IMODE(path.stat().st_mode) for path in (probe, probe / "file"))
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(of_folders if path.is_dir() else of_files)


def _temporary_path(path: Path) -> Path:
    """An unused path next to `path`, for what will be moved there."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def _sync_tree(folder: Path) -> None:
    """Flush everything in a folder to disk, with the permissions that new files get."""
    open_as_new(folder)
    for path in sorted(folder.rglob("*")):
        sync_folder(path) if path.is_dir() else _fsync_file(path)
    sync_folder(folder)


def check_replaceable(target: Path, over: str, overwrite: bool = True) -> None:
    """Refuse to replace anything but an older folder of the same kind.

    Args:
        target: the folder to be written.
        over: name of a file that an older one has.
        overwrite: an older one may be replaced.

    Raises:
        ConfigError: a file, a folder that holds other things, or an older one that must stay.
    """
    if not overwrite and (target / over).is_file():
        raise ConfigError(
            f"{target} exists already: it has a {over}",
            hint="Choose another folder, or replace it: --overwrite (overwrite=True).",
        )
    free = not target.exists() or (target.is_dir() and ((target / over).is_file() or not any(target.iterdir())))
    if not free:
        kind = f"is a folder without {over}, and not empty" if target.is_dir() else "is a file"
        raise ConfigError(f"{target} {kind}: it would be lost", hint="Choose another path, or remove it yourself.")


def check_writable(target: Path) -> None:
    """Fail before hours of work if `target` could not be written at the end.

    Raises:
        ConfigError: the folder can't be created or written.
    """
    with _writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            raise _cannot_write(path, str(error.strerror)) from error
        raise


def _cannot_write(path: Path, why: str) -> WriteError:
    return WriteError(f"can't write {path}: {why}", hint="Choose another path, or make this one writable.")


def _out_of_space(error: Exception) -> str | None:
    """Why the disk takes no more, if that is what an error is about; libraries wrap it in errors of their own."""
    for number in _NO_SPACE:
        if isinstance(error, OSError) and error.errno == number:
            return os.strerror(number)
        if any(f"{prefix} {number}" in str(error) for prefix in ("[Errno", "(os error")):
            return os.strerror(number)
    return None


def _move_folder(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`; what was there ends up at `source`."""
    if not target.exists():
        source.rename(target)
        return
    if exchange(source, target):
        return
    # No exchange on this system: between the two renames the name does not exist.
    aside = source.with_name(f"{source.name}.old")
    target.rename(aside)
    source.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def _fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
