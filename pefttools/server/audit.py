"""Who changed what is served: a line of JSON per change, from the logger ``pefttools.audit``."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

_log = logging.getLogger("pefttools.audit")


def note(action: Literal["load", "unload", "tag"], adapter: str, by: str, tag: str | None = None) -> None:
    """Write a line.

    Args:
        action: what was done.
        adapter: full name of the version, ``acme@3``.
        by: id of the caller's key.
        tag: tag that now points at the version.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "by": by,
        "action": action,
        "adapter": adapter,
    }
    _log.info("%s", json.dumps(line if tag is None else line | {"tag": tag}))
