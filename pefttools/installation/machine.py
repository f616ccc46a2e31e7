"""Free memory, and free space where files are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pefttools.files import cache_root
from pefttools.installation.finding import Finding, size
from pefttools.system import container_memory

#: less than this is worth a note: a small base and its checkpoints
_LITTLE = 2 * 2**30


def memory() -> Iterator[Finding]:
    """Free RAM; in a container with a limit, what is left of that."""
    import psutil

    found = psutil.virtual_memory()
    free, total, why = found.available, found.total, ""
    if (limited := container_memory(total)) is not None:
        total, why = limited[0], " that this container may use"
        free = min(free, total - limited[1])
    text = f"{size(free)} free of {size(total)}{why}"
    yield Finding("memory and disk", "RAM", "ok", text, data={"free_bytes": free, "total_bytes": total})


def disks() -> Iterator[Finding]:
    """Free space, and whether files can be written."""
    yield _place("cache", cache_root(), "Set PEFTTOOLS_CACHE to a folder that you can write.")
    store = os.environ.get("PEFTTOOLS_STORE", "")
    if store and "://" not in store:
        yield _place("store", Path(store), "Set PEFTTOOLS_STORE to a folder that you can write.", needed=False)
    yield _place("this folder", Path.cwd(), "Work in a folder that you can write.", needed=False)


def hub_cache() -> Iterator[Finding]:
    """Where models of the hub are kept."""
    from huggingface_hub import constants

    hint = "Set HF_HUB_CACHE to a folder that you can write."
    yield _place("models of the hub", Path(constants.HF_HUB_CACHE), hint, needed=False)


def _place(name: str, folder: Path, hint: str, *, needed: bool = True) -> Finding:
    """A folder that is or will be written."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    data = {"folder": str(folder), "free_bytes": free, "writable": writable}
    section, text = "memory and disk", f"{size(free)} free, {folder}"
    if not writable:
        return Finding(section, name, "problem" if needed else "note", f"{folder} can't be written", hint, data)
    return Finding(section, name, "note" if free < _LITTLE else "ok", text, data=data)
