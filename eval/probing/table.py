"""All cells of a probe, as one JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pefttools.errors import ConfigError
from pefttools.files import write_text_atomic

from .cells import Cell, Observation

FILE = "probe.json"
_FORMAT = 1


@dataclass(frozen=True)
class ProbeTable:
    """The results of a probe.

    Attributes:
        versions: distribution -> version, of everything that a result depends on.
        cells: in the order of families, number formats and methods.
        unable: method -> why it can't be tried.
        seconds: of all cells together, by one process.
    """

    versions: Mapping[str, str]
    cells: tuple[Cell, ...] = ()
    unable: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Total time of all cells."""
        return sum(cell.seconds for cell in self.cells)

    def counts(self) -> Counter[str]:
        """Status -> number of cells."""
        return Counter(cell.status for cell in self.cells)

    def with_cells(self, cells: Iterable[Cell]) -> ProbeTable:
        """The same with cells added or replaced."""
        found = {(one.method, one.family, one.variant): one for one in (*self.cells, *cells)}
        return replace(self, cells=tuple(found.values()))

    def in_order(self, keys: Sequence[tuple[str, str, str]]) -> ProbeTable:
        """The same with cells in the order of these methods, families and formats, and all others after them."""
        places = {key: place for place, key in enumerate(keys)}
        return replace(
            self,
            cells=tuple(
                sorted(self.cells, key=lambda one: places.get((one.method, one.family, one.variant), len(places)))
            ),
        )

    def write(self, path: Path) -> None:
        """As JSON, a line per cell."""
        lines = ",\n".join(f"  {json.dumps(packed(cell), sort_keys=True)}" for cell in self.cells)
        head = json.dumps({"format": _FORMAT, "versions": dict(self.versions), "unable": dict(self.unable)}, indent=1)
        write_text_atomic(path, f'{head[:-2]},\n "cells": [\n{lines}\n ]\n}}\n')

    @classmethod
    def read(cls, path: Path) -> ProbeTable:
        """The inverse of `write`.

        Raises:
            ConfigError: the file is not such a table.
        """
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            return cls(given["versions"], tuple(_unpacked(one) for one in given["cells"]), given["unable"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not the table of a probe: {error}") from error


def packed(cell: Cell) -> dict[str, Any]:
    """Each check as one text: ``works``, ``refused: because ...``."""
    checks = {name: f"{one.status}: {one.why}" if one.why else one.status for name, one in cell.checks.items()}
    return {**cell.as_dict(), "checks": checks, "seconds": round(cell.seconds, 1)}


def _unpacked(given: Mapping[str, Any]) -> Cell:
    checks = {}
    for name, text in given["checks"].items():
        status, _, why = text.partition(": ")
        checks[name] = Observation(status, why)
    return Cell(given["method"], given["family"], given["variant"], checks, given["seconds"])
