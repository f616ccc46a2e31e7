"""What operators see: ids, the access log, figures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Server

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]


def _figure(text: str, name: str) -> float:
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "pefttools.access"]


def test_every_answer_has_an_id_and_a_line_in_the_log(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]})
    with caplog.at_level(logging.INFO, "pefttools.access"):
        ask = {"model": "acme", "input": "a secret text"}
        answer = server.http.post("/v1/classify", json=ask, headers={"x-request-id": "mine-1"})
        wrong = server.http.post("/v1/classify", json=ask | {"model": "nobody"}, headers={"x-request-id": "a b\t{}"})
        lost = server.http.get("/nowhere/secret")
        until = time.monotonic() + 10
        while len(_lines(caplog)) < 3 and time.monotonic() < until:
            time.sleep(0.01)  # a line is written once its answer has gone out
    assert answer.headers["x-request-id"] == "mine-1"
    ids = [one.headers["x-request-id"] for one in (answer, wrong, lost)]
    assert len(set(ids)) == 3 and all(ids)
    lines = _lines(caplog)
    assert [(one["id"], one["route"], one["status"]) for one in lines] == [
        (ids[0], "/v1/classify", 200), (ids[1], "/v1/classify", 404), (ids[2], "other", 404),
    ]  # fmt: skip
    assert lines[0]["caller"] == "everybody" and lines[0]["method"] == "POST" and lines[0]["seconds"] > 0
    assert "secret" not in caplog.text


def test_figures_of_queue_tokens_errors_and_evictions(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)], "globex": [writers(2)]}, max_resident=1)
    for name in ("acme", "globex", "acme"):
        request = {"model": name, "prompt": ["one", "two"], "max_tokens": 3, "temperature": 0}
        assert server.http.post("/v1/completions", json=request).status_code == 200
    for _ in range(2):
        server.http.post("/v1/completions", json={"model": "nobody", "prompt": "a"})
    text = server.http.get("/metrics").text
    assert _figure(text, "pefttools_queue_seconds_count") == 6
    assert _figure(text, "pefttools_first_token_seconds_count") == 6
    assert 0 < _figure(text, "pefttools_first_token_seconds_sum") < 60
    assert _figure(text, "pefttools_evicted_adapters") == 2
    assert _figure(text, 'pefttools_errors_total{code="model_not_found"}') == 2
