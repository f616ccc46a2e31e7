"""Facts about the machine and the code, for a record."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

from pefttools.system import processor_name


def hardware() -> dict[str, Any]:
    """Processor, cores, threads, memory and GPU."""
    import psutil
    import torch

    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": None,
        # of the last minute; includes this run's own threads
        "load_average": round(psutil.getloadavg()[0], 2),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def git_revision() -> str | None:
    """Commit of the working folder, with ``+`` if it has changes; None outside a repository."""

    def ask(*words: str) -> str:
        done = subprocess.run(("git", *words), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
