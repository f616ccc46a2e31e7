"""Adapters that were trained with passages: over HTTP, in a pool, merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pefttools
from pefttools.knowledge import KnowledgeIndex
from pefttools.server import Settings
from tests.pefttools.server.conftest import running

from .makers import WORDS

ROWS = [{"text": " ".join(WORDS[n % 7 : n % 7 + 3]), "label": ("few", "many")[n % 2]} for n in range(30)]
ASKED = ["one two three", "apples pears"]


@pytest.fixture(scope="module")
def trained(knowledge: KnowledgeIndex, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact in a store of its own."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    pefttools.train(
        {"base": tiny_bert, "method": "lora", "task": {"name": "sequence-classification", "head": "mean"},
         "data": {"train": str(folder / "rows.jsonl"), "validation": 0.2},
         "knowledge": {"index": str(knowledge.folder), "passages": 2},
         "training": {"max_steps": 6, "batch_size": 8, "precision": "float32", "learning_rate": 0.01},
         "output": str(folder / "artifact")}
    )  # fmt: skip
    pefttools.Store(folder / "store").add(folder / "artifact", "found")
    return folder


def test_a_server_looks_up_what_predict_does(trained: Path, knowledge: KnowledgeIndex, tiny_bert: str) -> None:
    alone = pefttools.predict(trained / "artifact", ASKED, knowledge=knowledge)
    settings = Settings(base=tiny_bert, store=str(trained / "store"), knowledge=knowledge.folder)
    with running(settings) as server:
        answer = server.http.post("/v1/predict", json={"model": "found", "input": ASKED}).json()
        classes = server.http.post("/v1/classify", json={"model": "found", "input": ASKED}).json()
        own: list[dict[str, Any]] = [{"text": ASKED[0], "pair": "two three"}]
        given = server.http.post("/v1/predict", json={"model": "found", "input": own}).json()
    for expected, row, label in zip(alone, answer["data"], classes["data"], strict=True):
        assert row["prediction"] == label["label"] == expected["prediction"]
        assert row["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert row["sources"] == label["sources"] == expected["sources"]
    assert "sources" not in given["data"][0]


def test_a_server_without_an_index_says_so(trained: Path, tiny_bert: str) -> None:
    with running(Settings(base=tiny_bert, store=str(trained / "store"))) as server:
        answer = server.http.post("/v1/predict", json={"model": "found", "input": ASKED})
    assert answer.status_code == 404
    assert "this server has no index of them" in answer.json()["error"]["message"]


def test_a_merged_model_looks_nothing_up_and_the_card_says_what_is_read(trained: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the merged model looks nothing up"):
        pefttools.merge(trained / "artifact", tmp_path / "merged")
    assert "this model looks nothing up" in (tmp_path / "merged" / "README.md").read_text()
    card = (trained / "artifact" / "README.md").read_text()
    assert "the 2 passages nearest to 'text', as 'pair'" in card
    assert 'pefttools.predict(model, ["..."], knowledge="path/to/an/index")' in card
