"""One process, or several that train together (as ``accelerate launch`` starts them)."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process writes: the first of a distributed run, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
