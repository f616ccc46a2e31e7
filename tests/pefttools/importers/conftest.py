"""One foreign adapter for all tests, a base by the kind of adapter, and a hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pefttools import test_hub

from .foreign import KINDS, make

hub = test_hub.hub


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(KINDS[request.node.callspec.params["kind"]].base))


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    return make(KINDS["lora"], tiny_bert, tmp_path_factory.mktemp("lora") / "peft")
