"""Adapters are made once for all tests of the pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from .makers import Make, make


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes an adapter, or gives the one that was made before."""
    made: dict[tuple[str, str, str, int], Path] = {}

    def get(base: str, head: str, method: str, number: int) -> Path:
        key = (base, head, method, number)
        if key not in made:
            made[key] = make(base, head, method, number, tmp_path_factory.mktemp("adapter") / "artifact")
        return made[key]

    return get
