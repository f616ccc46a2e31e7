"""What the command line says: its lists as data, and its help."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from pefttools.cli.main import build_app

_WIDTH = 80


def listed(kind: str) -> dict[str, dict[str, Any]]:
    """Name -> row of ``pefttools methods --json``, or tasks, or objectives."""
    rows: list[dict[str, Any]] = json.loads(output([kind, "--json"]))
    return {row["name"]: row for row in rows}


def output(arguments: list[str]) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it fails.
    """
    done = CliRunner().invoke(build_app(), arguments, terminal_width=_WIDTH, env={"COLUMNS": str(_WIDTH)})
    if done.exit_code:
        raise RuntimeError(f"pefttools {' '.join(arguments)} failed: {done.output}") from done.exception
    return done.stdout
