"""A small encoder, and an index that it has made."""

from __future__ import annotations

from pathlib import Path

import pytest

import pefttools
from pefttools.knowledge import KnowledgeIndex

from .makers import PASSAGES


@pytest.fixture(scope="session")
def encoder(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that embeds texts."""
    folder = tmp_path_factory.mktemp("encoder") / "artifact"
    pefttools.save(pefttools.wrap(tiny_bert, "untuned", task="sentence-embedding"), folder)
    return folder


@pytest.fixture(scope="session")
def knowledge(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeIndex:
    """An index of nine passages."""
    return pefttools.index(PASSAGES, encoder, tmp_path_factory.mktemp("knowledge") / "index")
