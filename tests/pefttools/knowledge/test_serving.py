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


def _trained(folder: Path, knowledge: KnowledgeIndex, base: str, task: dict[str, Any], rows: list[Any]) -> Path:
    """An artifact that was trained with passages, in a store of its own."""
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pefttools.train(
        {"base": base, "method": "lora", "task": task,
         "data": {"train": str(folder / "rows.jsonl"), "validation": 0.2},
         "knowledge": {"index": str(knowledge.folder), "passages": 2},
         "training": {"max_steps": 6, "batch_size": 8, "precision": "float32", "learning_rate": 0.01},
         "output": str(folder / "artifact")}
    )  # fmt: skip
    pefttools.Store(folder / "store").add(folder / "artifact", "found")
    return folder


@pytest.fixture(scope="module")
def trained(knowledge: KnowledgeIndex, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that classifies."""
    task = {"name": "sequence-classification", "head": "mean"}
    return _trained(tmp_path_factory.mktemp("trained"), knowledge, tiny_bert, task, ROWS)


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


@pytest.fixture(scope="module")
def writes(knowledge: KnowledgeIndex, tiny_llama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that continues texts, trained on prompts."""
    rows = [{"prompt": row["text"], "completion": row["label"]} for row in ROWS]
    task = {"name": "causal-lm", "max_new_tokens": 4}
    return _trained(tmp_path_factory.mktemp("writes"), knowledge, tiny_llama, task, rows)


def _events(answer: Any) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_chats_and_texts_are_continued_after_their_passages(
    writes: Path, knowledge: KnowledgeIndex, tiny_llama: str
) -> None:
    alone = pefttools.predict(writes / "artifact", [{"prompt": text} for text in ASKED], knowledge=knowledge)
    common = {"model": "found", "max_tokens": 4, "temperature": 0}
    with running(Settings(base=tiny_llama, store=str(writes / "store"), knowledge=knowledge.folder)) as server:
        for text, expected in zip(ASKED, alone, strict=True):
            asked = {**common, "messages": [{"role": "user", "content": text}]}
            (choice,) = server.http.post("/v1/chat/completions", json=asked).json()["choices"]
            assert choice["message"]["content"].strip() == expected["prediction"]
            assert choice["sources"] == expected["sources"] and len(choice["sources"]) == 2
            streamed = _events(server.http.post("/v1/chat/completions", json={**asked, "stream": True}))
            *_, last = (event["choices"][0] for event in streamed)
            assert last["sources"] == expected["sources"] and last["finish_reason"]
            assert "sources" not in streamed[0]["choices"][0]
        texts = server.http.post("/v1/completions", json={**common, "prompt": ASKED}).json()["choices"]
        assert [one["sources"] for one in texts] == [one["sources"] for one in alone]
        ends = [
            event["choices"][0]
            for event in _events(server.http.post("/v1/completions", json={**common, "prompt": ASKED, "stream": True}))
            if event["choices"][0]["finish_reason"]
        ]
        assert {one["index"]: one["sources"] for one in ends} == {n: one["sources"] for n, one in enumerate(alone)}
        # The base was not trained with passages.
        plain = {**common, "model": tiny_llama, "messages": [{"role": "user", "content": ASKED[0]}]}
        base = server.http.get("/v1/models").json()["data"][0]["id"]
        assert (
            "sources"
            not in server.http.post("/v1/chat/completions", json={**plain, "model": base}).json()["choices"][0]
        )


def test_a_chat_in_which_the_user_says_nothing_is_refused(
    writes: Path, knowledge: KnowledgeIndex, tiny_llama: str
) -> None:
    with running(Settings(base=tiny_llama, store=str(writes / "store"), knowledge=knowledge.folder)) as server:
        silent = {"model": "found", "messages": [{"role": "user", "content": " "}]}
        answer = server.http.post("/v1/chat/completions", json=silent)
    assert answer.status_code == 400
    assert "there is no text to look passages up for" in answer.json()["error"]["message"]


def test_a_server_without_an_index_continues_no_chats(writes: Path, tiny_llama: str) -> None:
    with running(Settings(base=tiny_llama, store=str(writes / "store"))) as server:
        asked = {"model": "found", "messages": [{"role": "user", "content": ASKED[0]}]}
        answer = server.http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 404
    assert "this server has no index of them" in answer.json()["error"]["message"]


def test_a_pool_says_that_rows_must_come_with_passages(writes: Path, tiny_llama: str) -> None:
    pool = pefttools.AdapterPool(tiny_llama)
    with pytest.warns(UserWarning, match="the 2 passages nearest to 'prompt', before it: rows must come with them"):
        pool.load("found", writes / "artifact")
    with pytest.warns(UserWarning, match="rows must come with them"):
        pool.register("again", writes / "artifact")
