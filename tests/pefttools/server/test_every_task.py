"""Adapters of different tasks in one batch, in a pool and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pefttools
from pefttools.errors import ConfigError, DataError
from pefttools.pool.running import Runner
from pefttools.tasks import tasks
from tests.pefttools.tasks.samples import SAMPLES

HEADS = [
    name
    for name in SAMPLES
    if not tasks.get(name).generates and tasks.get(name).servable and tasks.get(name).modality == "text"
]


@pytest.fixture(scope="module")
def adapters(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One trained adapter per task, by different methods and heads."""
    folder = tmp_path_factory.mktemp("adapters")
    found: dict[str, Path] = {}
    by_name = {"token-classification": "prefix", "multi-label-classification": "bottleneck", "regression": "ia3",
               "sentence-embedding": "bitfit"}  # fmt: skip
    for name in HEADS:
        method = by_name.get(name, "lora")
        options, rows = SAMPLES[name]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        own = {"head": "model"} if method == "bottleneck" else {}
        pefttools.train(
            {"base": tiny_bert, "method": method, "task": {"name": name, **options, **own},
             "data": {"train": str(path), "validation": 0.34}, "output": str(folder / name),
             "training": {"max_steps": 4, "batch_size": 8, "precision": "float32", "learning_rate": 0.05}}
        )  # fmt: skip
        found[name] = folder / name
    return found


def _asked(name: str, count: int) -> list[dict[str, Any]]:
    inputs = tasks.get(name).inputs()
    return [{role: cell for role, cell in row.items() if role in inputs} for row in SAMPLES[name][1][:count]]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return bool(other == pytest.approx(one, abs=1e-4))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def test_rows_of_all_tasks_share_a_batch(adapters: dict[str, Path], tiny_bert: str) -> None:
    pool = pefttools.AdapterPool(tiny_bert)
    for name, folder in adapters.items():
        pool.load(name, folder)
    rows = [(name, row) for index in range(6) for name in HEADS for row in _asked(name, 6)[index : index + 1]]
    mixed = pool.predict([row for _, row in rows], [name for name, _ in rows], all_scores=False)
    alone = {name: iter(pefttools.predict(adapters[name], _asked(name, 6))) for name in HEADS}
    for (name, _), found in zip(rows, mixed, strict=True):
        assert _same(next(alone[name]), found), name
    kinds = {name: type(found["prediction"]) for (name, _), found in zip(rows, mixed, strict=True)}
    assert set(kinds.values()) == {str, list, float}
    of_texts = [name for name in HEADS if not tasks.get(name).ranks]
    answers = pool(["one two"] * len(of_texts), of_texts)
    labelled = [name == "sequence-classification" for name in of_texts]
    assert [answer.label is not None for answer in answers] == labelled, (
        "only where one label is the answer is there one"
    )


@pytest.mark.slow
def test_parts_of_rows_are_asked_a_few_at_a_time(
    adapters: dict[str, Path], tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parts of a row by its own adapter, whatever their number; it is answered once."""
    pool = pefttools.AdapterPool(tiny_bert)
    names = ["question-answering", "multiple-choice", "token-classification"]
    for name in names:
        pool.load(name, adapters[name])
    batches: list[tuple[int, ...]] = []
    run = Runner.answer

    def noted(self: Runner, rows: Any, batch: Any) -> Any:
        batches.append(tuple(batch["input_ids"].shape))
        return run(self, rows, batch)

    monkeypatch.setattr(Runner, "answer", noted)
    rows = [(name, row) for index in range(7, 10) for name in names for row in _asked(name, 10)[index : index + 1]]
    whole = pool.predict([row for _, row in rows], [name for name, _ in rows])
    parts, shown = batches[0][0], len(batches)
    assert shown == 1 and parts > len(rows)
    few = pool.predict([row for _, row in rows], [name for name, _ in rows], batch_size=2)
    assert _same(few, whole)
    assert [size for size, _ in batches[1:]] == [2] * (parts // 2) + [1] * (parts % 2)
    widths = [width for _, width in batches[1:]]
    assert widths == sorted(widths, reverse=True), "parts of similar size run together"


def test_what_a_row_lacks_is_refused_by_its_own_task(adapters: dict[str, Path], tiny_bert: str) -> None:
    pool = pefttools.AdapterPool(tiny_bert)
    pool.load("tags", adapters["token-classification"])
    with pytest.raises(DataError, match="column 'words'"):
        pool.predict([{"words": []}], ["tags"])
    with pytest.raises(ConfigError, match="2 rows, but 1 adapters"):
        pool.predict(["a", "b"], ["tags"])
    with pytest.raises(ConfigError, match="no prediction head"):
        pool.predict(["a"], [None])  # type: ignore[list-item]


def test_over_http(adapters: dict[str, Path], tiny_bert: str, serve: Any) -> None:
    server = serve(tiny_bert, {name: [folder] for name, folder in adapters.items()})
    for name, folder in adapters.items():
        asked = _asked(name, 3)
        answer = server.http.post("/v1/predict", json={"model": name, "input": asked, "scores": True}).json()
        model = pefttools.load(folder)
        alone = pefttools.predict(model, asked, all_scores=bool(model.labels) or model.spec.task.ranks)
        for index, (one, other) in enumerate(zip(alone, answer["data"], strict=True)):
            assert other.pop("index") == index and _same(one, other), name
    post = server.http.post
    tags = {"model": "token-classification", "input": "one two three"}
    assert len(post("/v1/predict", json=tags).json()["data"][0]["prediction"]) == 3
    assert post("/v1/classify", json={"model": "regression", "input": "x"}).status_code == 404
    wrong = post("/v1/predict", json={"model": "regression", "input": {"words": ["a"]}})
    assert wrong.status_code == 404 and "does not read 'words'" in wrong.json()["error"]["message"]
    bad = post("/v1/predict", json={"model": "regression", "input": ["fine", " "], "on_error": "skip"}).json()["data"]
    assert "prediction" in bad[0] and "expected text" in bad[1]["error"]["message"]
    assert post("/v1/predict", json={"model": "regression", "input": ["fine", " "]}).status_code == 400
    long = {"model": "question-answering", "input": {"question": "where?", "context": "one two three " * 8_000}}
    many = post("/v1/predict", json=long)
    assert many.status_code == 400 and "parts, such as windows of a long text" in many.json()["error"]["message"]
