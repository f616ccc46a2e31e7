"""What operators see: ids, the access log, figures."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from pefttools.artifact.signing import new_key, sign
from pefttools.server.keys import digest

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


def test_who_changed_what_is_served(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys.yaml"
    entries = [
        {"id": "ann", "sha256": digest("secret-a"), "manage": ["*"]},
        {"id": "bob", "sha256": digest("secret-b"), "adapters": ["*"]},
    ]
    keys.write_text(yaml.safe_dump(entries), encoding="utf-8")
    server = serve(tiny_bert, {"acme": [classifiers(1), classifiers(2)]}, keys=keys)
    ann, bob = ({"Authorization": f"Bearer secret-{one}"} for one in "ab")
    with caplog.at_level(logging.INFO, "pefttools.audit"):
        server.http.post("/v1/classify", json={"model": "acme@1", "input": "a text"}, headers=bob).raise_for_status()
        server.http.post("/v1/classify", json={"model": "acme@1", "input": "a text"}, headers=ann).raise_for_status()
        body = {"version": "2", "tag": "prod"}
        server.http.post("/v1/adapters/acme", json=body, headers=ann).raise_for_status()
        assert server.http.delete("/v1/adapters/acme", headers=bob).status_code == 403
        server.http.delete("/v1/adapters/acme", headers=ann).raise_for_status()
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "pefttools.audit"]
    assert [(one["by"], one["action"], one["adapter"], one.get("tag")) for one in lines] == [
        ("bob", "load", "acme@1", None), ("ann", "load", "acme@2", None), ("ann", "tag", "acme@2", "prod"),
        ("ann", "unload", "acme@1", None), ("ann", "unload", "acme@2", None),
    ]  # fmt: skip
    assert "secret" not in caplog.text


def test_whoever_loads_an_adapter_is_noted_also_where_room_is_short(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(tiny_bert, {name: [classifiers(number)] for number, name in enumerate("abc")}, max_resident=1)
    with caplog.at_level(logging.INFO, "pefttools.audit"), ThreadPoolExecutor(6) as threads:
        asked = [
            threads.submit(server.http.post, "/v1/classify", json={"model": name, "input": "a text"})
            for name in "abc" * 6
        ]
        assert all(one.result().status_code == 200 for one in asked)
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "pefttools.audit"]
    assert {one["adapter"] for one in lines} == {"a@1", "b@1", "c@1"}
    assert len(lines) == _figure(server.http.get("/metrics").text, "pefttools_adapter_loads_total")
    assert len(lines) >= server.service.pool.evictions


def test_a_server_serves_signed_adapters_alone(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path
) -> None:
    public = new_key(tmp_path / "key.pem")
    signed = shutil.copytree(classifiers(2), tmp_path / "signed")
    sign(signed, tmp_path / "key.pem")
    server = serve(tiny_bert, {"plain": [classifiers(1)], "signed": [signed]}, signed_by=[public])
    assert server.http.post("/v1/classify", json={"model": "signed", "input": "a text"}).status_code == 200
    refused = server.http.post("/v1/classify", json={"model": "plain", "input": "a text"})
    assert refused.status_code == 422 and "is not signed" in refused.text
    assert server.service.pool.resident == ["signed@1"]
