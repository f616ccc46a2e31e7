"""What differs between operating systems, in one place: what Linux has, and what is done where it is missing.

The rest of the code is the same everywhere. Only Linux is tested; `tests/pefttools/test_system.py` tries what is done
elsewhere by taking away what Linux has.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: of renameat2(2)
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
#: names of this process's open files (Linux)
_OPEN_FILES = Path("/proc/self/fd")
_PROCESSORS = Path("/proc/cpuinfo")
#: limit and use of a container's memory, in the two versions of Linux's control groups
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
#: whether files can be opened relative to an open folder; not on Windows, where open files can't be replaced either
_IN_FOLDERS = os.open in os.supports_dir_fd

#: an open folder, or its path
Place = int | Path


def sync_folder(path: Path) -> None:
    """Flush a folder's names to disk; nothing on Windows, where folders can't be opened."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system can't, and nothing was done."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


@contextmanager
def opened_folder(folder: Path) -> Iterator[Place]:
    """A folder held open, so that it stays the same one when its name goes to another; its path where it can't be.

    Raises:
        OSError: there is no such folder.
    """
    if not _IN_FOLDERS:
        yield folder
        return
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        yield handle
    finally:
        os.close(handle)


def open_inside(place: Place, name: str) -> IO[bytes]:
    """Open a file of a folder for reading.

    Raises:
        OSError: it is missing or can't be read.
    """
    if isinstance(place, Path):
        return (place / name).open("rb")
    # O_NONBLOCK: a pipe under a file's name must not keep its reader waiting.
    handle = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0), dir_fd=place)
    return os.fdopen(handle, "rb")


def show(stream: IO[bytes], path: Path, *, copied: bool = False) -> None:
    """Make an open file available under a path: a name for the open file itself on Linux, else a copy of it.

    Args:
        stream: the file, which keeps its content when it is removed.
        path: its new name.
        copied: copy it in any case.
    """
    if not copied and _OPEN_FILES.is_dir():
        path.symlink_to(_OPEN_FILES / str(stream.fileno()))
        return
    with path.open("wb") as copy:
        shutil.copyfileobj(stream, copy)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where links are not allowed, as to most users of Windows."""
    try:
        target.symlink_to(source)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def allow_open_files(needed: int) -> int | None:
    """Let this process have so many files open.

    Returns:
        The largest number that the system allows, if it is less than this; then nothing was changed.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        return hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return None


def allow_reuse(one: socket.socket) -> None:
    """Let a socket use an address that an ended program had a moment ago.

    Not on Windows: there the same option would also let it take an address that is in use.
    """
    if os.name == "posix":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes."""
    try:
        import resource
    except ModuleNotFoundError:
        import psutil

        used: Any = psutil.Process().memory_info()  # peak_wset: on Windows alone
        return int(used.peak_wset)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def processor_name() -> str:
    """The processor's name; elsewhere than on Linux what Python knows of it, which may be empty."""
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def container_memory(total: int) -> tuple[int, int] | None:
    """Memory that this container may use and that it uses, in bytes; None if no limit is below the machine's total."""
    found = None
    for limit, used in _GROUPS:
        allowed = _number(limit)
        if allowed is not None and allowed < total:
            total, found = allowed, (allowed, _number(used) or 0)
    return found


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
