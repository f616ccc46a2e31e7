"""What hostile or broken clients, adapters and stores may not do to a server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

from pefttools.artifact.manifest import list_files, read_manifest, write_manifest
from pefttools.errors import ArtifactError
from pefttools.server import Settings
from pefttools.server.errors import without_paths
from pefttools.server.running import ANSWER
from pefttools.store import Store

from .conftest import Server, running

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]


def _overflowing(artifact: Path, folder: Path) -> Path:
    """Finite weights whose products are not."""
    shutil.copytree(artifact, folder)
    path = folder / "adapter_model.safetensors"
    state = {name: tensor.float().fill_(1e38) for name, tensor in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": list_files(folder)}))
    return folder


def test_an_adapter_without_numbers_answers_nothing_and_harms_nobody(
    serve: Serve, tiny_bert: str, tiny_llama: str, classifiers: Artifacts, writers: Artifacts, tmp_path: Path
) -> None:
    bad = _overflowing(classifiers(2), tmp_path / "bad")
    server = serve(tiny_bert, {"acme": [classifiers(1)], "bad": [bad]}, max_wait_ms=100)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(
            lambda name: (name, server.http.post("/v1/classify", json={"model": name, "input": "a text"})),
            ["acme", "bad"] * 4,
        ))  # fmt: skip
    for name, answer in answers:
        assert answer.status_code == (200 if name == "acme" else 422), answer.text
    assert "gives non-finite values" in answers[1][1].json()["error"]["message"]


def test_of_rows_that_fail_together_nothing_is_left_over(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(tiny_bert, {"bad": [_overflowing(classifiers(2), tmp_path / "bad")]})
    answer = server.http.post("/v1/classify", json={"model": "bad", "input": ["one", "two", "three"]})
    assert answer.status_code == 422
    server.http.post(
        "/v1/classify", json={"model": "bad", "input": "another batch, so that the first one is let go of"}
    )
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"], "exceptions that nobody retrieved"


def test_generation_without_numbers_ends_for_that_row_alone(
    serve: Serve, tiny_llama: str, writers: Artifacts, tmp_path: Path
) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)], "bad": [_overflowing(writers(2), tmp_path / "bad")]},
                   max_wait_ms=100)  # fmt: skip
    for temperature in (0, 1):
        request = {"prompt": "a text that goes on", "max_tokens": 8, "temperature": temperature, "seed": 3}
        alone = server.http.post("/v1/completions", json={"model": "acme", **request}).json()["choices"][0]["text"]
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(
                lambda name, request=request: (
                    name, server.http.post("/v1/completions", json={"model": name, **request})
                ), ["acme", "bad"] * 2,
            ))  # fmt: skip
        for name, answer in answers:
            if name == "acme":
                assert answer.json()["choices"][0]["text"] == alone
            else:
                assert answer.status_code == 422 and "gives non-finite values" in answer.text


def test_a_version_number_of_thousands_of_digits_is_unknown(
    serve: Serve, tiny_bert: str, classifiers: Artifacts
) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]})
    for reference in ("acme@" + "9" * 5000, "acme@" + "0" * 5000, "acme@01", "acme@0", "acme@²", "acme@٣"):
        found = server.http.get(f"/v1/models/{reference}")
        assert found.status_code in (400, 404), (reference[:12], found.status_code)
        assert len(found.text) < 1000


def test_a_version_that_is_removed_while_it_is_asked_for_is_unknown(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path
) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1), classifiers(2)]}, max_resident=1)
    ask = {"model": "acme@1", "input": "a text"}
    assert server.http.post("/v1/classify", json=ask).status_code == 200
    assert server.http.post("/v1/classify", json=ask | {"model": "acme@2"}).status_code == 200
    Store(tmp_path / "store").remove("acme@1")
    gone = server.http.post("/v1/classify", json=ask)
    assert gone.status_code == 404 and str(tmp_path) not in gone.text


def test_callers_who_leave_are_not_computed_for(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    """64 ask for long answers and hang up; the next caller does not wait for what nobody reads."""
    server = serve(tiny_llama, {"acme": [writers(1)]}, max_batch=8, max_tokens=2000)
    short = {"model": "acme", "prompt": "a text", "max_tokens": 1, "temperature": 0}
    server.http.post("/v1/completions", json=short)  # the adapter is there
    whole = time.perf_counter()
    server.http.post("/v1/completions", json=short | {"max_tokens": 100, "prompt": ["a text"] * 8})
    whole = time.perf_counter() - whole
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(64))

        def leave(number: int) -> None:
            with contextlib.suppress(httpx.TimeoutException):
                httpx.post(f"{server.url}/v1/completions", json=short | {"max_tokens": 100}, timeout=0.3)

        left = [threads.submit(leave, number) for number in range(64)]
        for one in left:
            one.result()
        begin = time.perf_counter()
        assert server.http.post("/v1/completions", json=short).status_code == 200
        waited = time.perf_counter() - begin
    # Without it all eight batches are run to their ends.
    assert waited < 3 * whole, f"{waited:.2f} s, where one batch takes {whole:.2f} s"


def test_one_callers_flood_leaves_room_for_another(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    """Five requests of 256 texts; another's single text is in the next batch and not behind all of them."""
    server = serve(tiny_bert, {"much": [classifiers(1)], "little": [classifiers(2)]}, max_batch=16, max_queue=1280)
    text = "a text of some length, so that there is something to do " * 4
    ask = {"model": "little", "input": text}
    server.http.post("/v1/classify", json=ask)
    with ThreadPoolExecutor(6) as threads:
        flood = [threads.submit(server.http.post, "/v1/classify", json={"model": "much", "input": [text] * 256})
                 for _ in range(5)]  # fmt: skip
        while server.service._batcher.waiting < 500:
            time.sleep(0.01)
        before = server.service._batcher.waiting
        assert server.http.post("/v1/classify", json=ask).status_code == 200
        after = server.service._batcher.waiting
        assert all(one.result().status_code == 200 for one in flood)
    assert before - after <= 4 * 16 < 200 < after, "it waited for more than the batch that ran and its own"


def test_health_and_readiness(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs and a batch that is stuck: alive all the same, at once, and not ready."""
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, stall_s=0.3, timeout_s=20)
    ask = {"model": "acme", "input": "a text"}
    assert server.http.post("/v1/classify", json=ask).status_code == 200
    assert server.http.get("/ready").json() == {"status": "ok"}
    free = threading.Event()
    answer = type(server.service.pool).answer
    monkeypatch.setattr(type(server.service.pool), "answer", lambda *a: (free.wait(15), answer(*a))[1])
    monkeypatch.setattr(Store, "resolve", lambda self, reference: (free.wait(15), ("acme", 1))[1])
    monkeypatch.setattr(Store, "names", lambda self: (free.wait(15), ["acme"])[1])
    with ThreadPoolExecutor(60) as threads:
        try:
            # More than there are threads that look into the store.
            hanging = [threads.submit(server.http.get, "/v1/models") for _ in range(20)]
            stuck = threads.submit(_classify_directly, server)
            time.sleep(0.6)
            for _ in range(20):
                assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
            not_ready = httpx.get(f"{server.url}/ready")
            assert not_ready.status_code == 503 and not_ready.json() == {"status": "the batches make no progress"}
            assert not any(one.done() for one in (*hanging, stuck)), "nothing hung: this shows nothing"
        finally:
            free.set()
        assert all(one.result().status_code == 200 for one in hanging)
        stuck.result()
    assert server.http.get("/ready").status_code == 200


def _classify_directly(server: Server) -> None:
    """A row in the queue, past the store."""

    async def ask() -> None:
        example = {"input_ids": [101, 2003, 102], "attention_mask": [1, 1, 1]}
        (row,) = server.service._batcher.submit(ANSWER, "acme@1", [example])
        await row.future

    asyncio.run(ask())


def test_long_texts_are_tokenized_beside_the_loop(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, max_body_bytes=10_000_000)
    long = {"model": "acme", "input": ["word " * 30_000] * 12}
    server.http.post("/v1/classify", json={"model": "acme", "input": "a text"})
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(server.http.post, "/v1/classify", json=long)
        answered = 0
        while not asked.done():
            httpx.get(f"{server.url}/health")
            answered += 1
        assert asked.result().status_code == 200
    # One or two, where the loop tokenizes: whoever asks meanwhile waits until it is done.
    assert answered >= 5, f"the server answered {answered} others while it tokenized"


def test_a_body_that_does_not_come_keeps_nobody(tiny_bert: str, classifiers: Artifacts, tmp_path: Path) -> None:
    """Half a request: told so after a while, and no reason for the server not to stop."""
    Store(tmp_path / "store").add(classifiers(1), "acme")
    settings = Settings(base=tiny_bert, store=str(tmp_path / "store"), body_s=0.5)
    with running(settings) as server:
        host, port = server.url.removeprefix("http://").split(":")
        sockets = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
        head = (
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        for one in sockets:
            one.sendall(head)
        assert sockets[0].recv(1000).startswith(b"HTTP/1.1 408")
        sockets.append(socket.create_connection((host, int(port)), timeout=10))
        sockets[-1].sendall(head)
        begin = time.perf_counter()
    assert time.perf_counter() - begin < 5, "it waited for the body before it stopped"
    for one in sockets:
        one.close()


@pytest.mark.parametrize(("said", "told"), [
    ("the artifact /srv/store/adapters/acme/versions/3 is damaged: a.safetensors is missing",
     "the artifact acme/versions/3 is damaged: a.safetensors is missing"),
    ("belongs to the base '/home/me/models/bert', but '/data/other' is", "belongs to the base 'bert', but 'other' is"),
    ("s3://bucket/adapters/acme/versions/1 can't be read", "acme/versions/1 can't be read"),
    ("/tmp/pefttools-x1/head.safetensors: bias", "head.safetensors: bias"),
    ("text/plain and 3/4 and org/name@main, /v1 too", "text/plain and 3/4 and org/name@main, /v1 too"),
])  # fmt: skip
def test_paths_of_the_server_are_nobodys_business(said: str, told: str) -> None:
    assert without_paths(said) == told


def test_no_error_tells_where_files_lie(
    serve: Serve, tiny_bert: str, tiny_llama: str, classifiers: Artifacts, writers: Artifacts, tmp_path: Path
) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)], "other": [writers(1)], "gone": [classifiers(2)]})
    damaged = tmp_path / "store" / "adapters" / "acme" / "versions" / "1" / "head.safetensors"
    damaged.write_bytes(b"no safetensors")
    shutil.rmtree(tmp_path / "store" / "adapters" / "gone" / "versions" / "1")
    for name in ("acme", "other", "gone", "acme@7"):
        answer = server.http.post("/v1/classify", json={"model": name, "input": "a text"})
        assert answer.status_code in (404, 409, 422)
        for secret in (tmp_path, Path(tiny_bert).parent, Path(tiny_llama).parent):
            assert str(secret) not in answer.text


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_llama"])
def test_a_store_lets_an_adapter_answer_before_it_takes_it(
    base: str, classifiers: Artifacts, writers: Artifacts, tmp_path: Path
) -> None:
    good = classifiers(1) if base == "tiny_bert" else writers(1)
    bad = _overflowing(good, tmp_path / "bad")
    store = Store(tmp_path / "store")
    assert store.add(good, "good", probe=True).version == 1
    with pytest.raises(ArtifactError, match=r"bad gives non-finite values"):
        store.add(bad, "bad", probe=True)
    assert store.names() == ["good"]
