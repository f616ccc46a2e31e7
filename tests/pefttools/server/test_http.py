"""Requests, as clients send them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import pefttools
from pefttools.server.keys import EVERYBODY
from pefttools.store import Store

from .conftest import Server

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]


def test_classify(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)], "globex": [classifiers(2)]})
    answer = server.http.post("/v1/classify", json={"model": "acme", "input": ["one text", "another"]})
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "acme@1"
    assert [entry["label"] for entry in body["data"]] == ["t1-1", "t1-1"]
    assert sum(body["data"][0]["scores"].values()) == pytest.approx(1)
    alone = pefttools.predict(classifiers(1), ["one text"])[0]
    assert body["data"][0]["score"] == pytest.approx(alone["score"], abs=1e-5)
    single = server.http.post("/v1/classify", json={"model": "globex", "input": "text"}).json()
    assert single["data"][0]["label"] == "t2-2"


def test_openai_client(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)], "globex": [writers(2)]})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused")
    assert [model.id for model in client.models.list()] == ["base", "acme", "globex"]
    texts = {}
    for name in ("base", "acme", "globex"):
        done = client.completions.create(model=name, prompt="a text that goes on", max_tokens=8, temperature=0)
        texts[name] = done.choices[0].text
        if name != "base":
            model = pefttools.load(writers(1 if name == "acme" else 2))
            inputs = dict(model.tokenizer("a text that goes on", return_tensors="pt"))
            inputs.pop("token_type_ids", None)
            wanted = model.generate(inputs, max_new_tokens=8)[0]
            assert texts[name] == model.tokenizer.decode(wanted, skip_special_tokens=True)
            assert done.usage is not None
            assert done.usage.completion_tokens == 8
            assert done.choices[0].finish_reason == "length"
    assert len(set(texts.values())) == 3
    streamed = client.completions.create(
        model="acme", prompt="a text that goes on", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == texts["acme"]
    several: dict[str, Any] = {
        "model": "acme",
        "prompt": ["a text that goes on", "another"],
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = client.completions.create(**several)
    found = ["", ""]
    ends = [0, 0]
    for chunk in client.completions.create(**several, stream=True):
        found[chunk.choices[0].index] += chunk.choices[0].text
        ends[chunk.choices[0].index] += chunk.choices[0].finish_reason is not None
    assert found == [choice.text for choice in whole.choices]
    assert ends == [1, 1]


def test_openai_chat(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)]})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused")
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "what is this"}]
    done = client.chat.completions.create(model="acme", messages=messages, max_tokens=8, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="acme", messages=messages, max_tokens=8, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        done.choices[0].message.content
    )
    assert chunks[-1].usage == done.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"


def test_a_seed_gives_the_same_whatever_runs_beside_it(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)], "globex": [writers(2)]}, max_wait_ms=200)
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused")

    async def ask(model: str, prompt: str, seed: int) -> str:
        done = await client.completions.create(model=model, prompt=prompt, max_tokens=12, seed=seed, temperature=0.8)
        return done.choices[0].text

    async def both() -> tuple[str, list[str]]:
        import asyncio

        alone = await ask("acme", "some words", 7)
        others = [ask("globex", f"other words {index} and more", index) for index in range(5)]
        return alone, await asyncio.gather(ask("acme", "some words", 7), *others, ask("acme", "some words", 8))

    import asyncio

    alone, together = asyncio.run(both())
    assert together[0] == alone
    assert together[-1] != alone


def test_stop_and_length(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)]})
    ask = {"model": "acme", "prompt": "a text that goes on", "max_tokens": 8, "temperature": 0}
    whole = server.http.post("/v1/completions", json=ask).json()["choices"][0]["text"]
    stop = whole.split()[3]
    cut = server.http.post("/v1/completions", json={**ask, "stop": stop}).json()["choices"][0]
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"
    with server.http.stream("POST", "/v1/completions", json={**ask, "stop": [stop], "stream": True}) as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]) == cut["text"]


def _error(answer: object) -> tuple[int, str]:
    body = answer.json()  # type: ignore[attr-defined]
    assert set(body) == {"error"}
    return answer.status_code, body["error"]["message"]  # type: ignore[attr-defined]


def test_wrong_requests(serve: Serve, tiny_bert: str, tiny_llama: str, classifiers: Artifacts, writers: Artifacts,
                        tmp_path: Path) -> None:  # fmt: skip
    server = serve(tiny_bert, {"acme": [classifiers(1)], "llama": [writers(1)]}, max_inputs=3, max_body_bytes=5000)
    post = server.http.post
    ask = {"model": "acme", "input": "text"}
    status, message = _error(post("/v1/classify", json={**ask, "model": "acne"}))
    assert (status, "Did you mean 'acme'" in message) == (404, True)
    assert _error(post("/v1/classify", json={**ask, "model": "acme@9"}))[0] == 404
    assert _error(post("/v1/classify", json={**ask, "model": "../acme"}))[0] == 404
    status, message = _error(post("/v1/classify", json={**ask, "model": "llama"}))
    assert status == 409
    assert tiny_llama.rpartition("/")[2] in message
    assert _error(post("/v1/classify", json={**ask, "model": "base"})) == (
        404, "the model 'base' has no classification head",
    )  # fmt: skip
    assert _error(post("/v1/classify", json={**ask, "input": ["x"] * 4}))[0] == 400
    assert _error(post("/v1/classify", json={**ask, "input": []}))[0] == 400
    assert _error(post("/v1/classify", json={**ask, "input": ["x" * 6000]}))[0] == 413
    header = {"content-type": "application/json"}
    assert _error(post("/v1/classify", content=b"{", headers=header)) == (400, "the body is not JSON")
    assert "content-type" in _error(post("/v1/classify", content=b"{}"))[1]
    assert "constrained" not in _error(post("/v1/classify", json={**ask, "input": ""}))[1]
    assert _error(post("/v1/classify", json={**ask, "inputs": "x"})) == (400, "inputs: Extra inputs are not permitted")
    assert _error(post("/v1/completions", json={"model": "acme", "prompt": "x"}))[0] == 404
    assert _error(server.http.get("/v1/nothing"))[0] == 404
    # One damaged adapter; the others notice nothing.
    Store(tmp_path / "store").add(classifiers(3), "broken")
    file = tmp_path / "store" / "adapters" / "broken" / "versions" / "1" / "head.safetensors"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    status, message = _error(post("/v1/classify", json={**ask, "model": "broken"}))
    assert (status, "head.safetensors" in message) == (422, True)
    assert "broken/versions/1" in message
    assert str(tmp_path) not in message
    assert post("/v1/classify", json=ask).json()["data"][0]["label"] == "t1-1"
    assert server.http.get("/health").json()["status"] == "ok"


def test_what_can_not_be_served(tiny_bert: str, classifiers: Artifacts, tmp_path: Path) -> None:
    import socket

    from pefttools.cli.serving import _check_free
    from pefttools.errors import ConfigError
    from pefttools.server import Settings
    from pefttools.server.service import Service

    with pytest.raises(ConfigError, match="there is no store at"):
        Service(Settings(base=tiny_bert, store=str(tmp_path / "nowhere")))
    Store(tmp_path / "store").add(classifiers(1), "base")
    with pytest.raises(ConfigError, match="the store has an adapter 'base'"):
        Service(Settings(base=tiny_bert, store=str(tmp_path / "store")))
    with pytest.raises(ConfigError, match="there is no key file"):
        Service(Settings(base=tiny_bert, store=str(tmp_path / "store"), keys=tmp_path / "keys.yaml"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="can't listen on"):
            _check_free("127.0.0.1", taken.getsockname()[1])


def test_chunked_bodies_are_limited_too(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, max_body_bytes=5000)

    def parts() -> object:
        for _ in range(100):
            yield b"x" * 1000

    assert _error(server.http.post("/v1/classify", content=parts()))[0] == 413  # type: ignore[arg-type]


def test_keys(serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path) -> None:
    import subprocess
    import sys

    keys = tmp_path / "keys.yaml"

    def make(*arguments: str) -> str:
        command = [sys.executable, "-m", "pefttools.cli.main", "api-key", "--keys", str(keys), *arguments]
        code = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"
        done = subprocess.run([sys.executable, "-c", code, *command[3:]], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    acme = make("acme", "--adapters", "acme*")
    admin = make("admin", "--manage", "*")
    assert acme not in keys.read_text()
    server = serve(tiny_bert, {"acme": [classifiers(1)], "globex": [classifiers(2)]}, keys=keys)

    def post(path: str, key: str | None, **body: object) -> object:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return server.http.post(path, headers=headers, json=body)

    ask = {"model": "acme", "input": "text"}
    assert _error(post("/v1/classify", None, **ask))[0] == 401
    assert _error(post("/v1/classify", acme + "x", **ask))[0] == 401
    assert post("/v1/classify", acme, **ask).status_code == 200  # type: ignore[attr-defined]
    assert _error(post("/v1/classify", acme, model="globex", input="text"))[0] == 403
    # What exists is not told to those who may not use it.
    assert _error(post("/v1/classify", acme, model="nobody", input="text"))[0] == 403
    assert "globex" not in _error(post("/v1/classify", acme, model="acme-eu", input="text"))[1]
    assert _error(post("/v1/adapters/acme", acme))[0] == 403
    assert post("/v1/adapters/acme", admin).status_code == 200  # type: ignore[attr-defined]
    listed = server.http.get("/v1/models", headers={"authorization": f"Bearer {acme}"}).json()
    assert [model["id"] for model in listed["data"]] == ["base", "acme"]


def test_loading_tagging_and_unloading(serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1), classifiers(2)]})
    loaded = server.http.post("/v1/adapters/acme", json={"version": "1", "tag": "prod"}).json()
    assert loaded == {"model": "acme@1", "tag": "prod"}
    ask = {"model": "acme@prod", "input": "text"}
    assert server.http.post("/v1/classify", json=ask).json()["data"][0]["label"] == "t1-1"
    Store(tmp_path / "store").tag("acme", 2, "prod")
    assert server.http.post("/v1/classify", json=ask).json()["data"][0]["label"] == "t2-2"
    assert server.http.delete("/v1/adapters/acme").json() == {"unloaded": ["acme@1", "acme@2"]}
    for tag in ("3", "", "a b"):  # a number is a version
        status, message = _error(server.http.post("/v1/adapters/acme", json={"tag": tag}))
        assert status == 400 and message.startswith("tag: ")
    assert server.service.pool.resident == []
    assert server.http.post("/v1/classify", json=ask).json()["data"][0]["label"] == "t2-2"


def test_metrics(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]})
    server.http.post("/v1/classify", json={"model": "acme", "input": ["a", "b", "c"]})
    text = server.http.get("/metrics").text
    assert 'pefttools_requests_total{route="/v1/classify",status="200"} 1.0' in text
    assert "pefttools_batch_rows_sum 3.0" in text
    assert "pefttools_resident_adapters 1.0" in text


def test_a_full_queue_and_a_slow_answer(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)]}, max_queue=2, timeout_s=0.3)
    server.service.models.load("acme", EVERYBODY)  # reading it may take longer than that
    ask = {"model": "acme", "prompt": ["a", "b", "c"], "max_tokens": 4, "temperature": 0}
    assert _error(server.http.post("/v1/completions", json=ask))[0] == 429
    slow = {"model": "acme", "prompt": "a", "max_tokens": 1000, "temperature": 0}
    assert _error(server.http.post("/v1/completions", json=slow))[0] == 504
    server.service.close()
    assert _error(server.http.post("/v1/completions", json={**slow, "max_tokens": 1}))[0] == 503


def test_a_stopped_server_finishes_what_it_has(tiny_llama: str, writers: Artifacts, tmp_path: Path) -> None:
    """SIGTERM while an answer is being generated: the answer comes, nothing new is taken, the process ends."""
    import signal
    import socket
    import subprocess
    import sys
    import threading
    import time

    import httpx

    Store(tmp_path / "store").add(writers(1), "acme")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"
    command = ["serve", "--base", tiny_llama, "--store", str(tmp_path / "store"), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", program, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert f"with 1 adapters on http://127.0.0.1:{port}" in process.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        found: list[httpx.Response] = []
        ask = {"model": "acme", "prompt": "a text that goes on", "max_tokens": 400, "temperature": 0}
        asking = threading.Thread(
            target=lambda: found.append(httpx.post(f"{url}/v1/completions", json=ask, timeout=60))
        )
        asking.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert found[0].status_code == 200
        assert found[0].json()["usage"]["completion_tokens"] == 400
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
    finally:
        process.kill()


def test_pairs_beside_single_texts(serve: Serve, tiny_bert: str, tmp_path: Path) -> None:
    """Token types of one tenant's pairs are not lost because another's single text came first."""
    import asyncio

    import httpx

    folder = tmp_path / "pairs"
    task = {"name": "sequence-classification", "head": "mean"}
    pefttools.save(pefttools.wrap(tiny_bert, "lora", task=task, labels=["a", "b"], precision="float32"), folder)
    prefix = tmp_path / "prefix"
    pefttools.save(pefttools.wrap(tiny_bert, "prefix", task=task, labels=["a", "b"], precision="float32"), prefix)
    server = serve(tiny_bert, {"acme": [folder], "prefix": [prefix]}, max_wait_ms=200)
    pair = {"text": "one text", "pair": "another one"}
    wanted = pefttools.predict(folder, [pair])[0]["score"]

    async def ask(order: list[object]) -> list[float]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            answers = await asyncio.gather(
                *(http.post("/v1/classify", json={"model": "acme", "input": one}) for one in order)
            )
        return [answer.json()["data"][0]["score"] for answer in answers]

    for order in (["single", pair, "single"], [pair, "single"]):
        scores = asyncio.run(ask(list(order)))
        assert scores[order.index(pair)] == pytest.approx(wanted, abs=1e-5)
    refused = server.http.post("/v1/classify", json={"model": "prefix", "input": pair})
    assert _error(refused)[0] == 404
    assert "the adapter 'prefix@1': the method 'prefix' can't tell the two texts of a pair apart" in _error(refused)[1]


def test_names_of_others_are_not_told_to_managers(serve: Serve, tiny_bert: str, classifiers: Artifacts,
                                                  tmp_path: Path) -> None:  # fmt: skip
    from pefttools.server.keys import digest

    keys = tmp_path / "keys.yaml"
    keys.write_text(f"- {{id: acme, sha256: {digest('secret')}, manage: ['acme*']}}\n")
    server = serve(tiny_bert, {"acme": [classifiers(1)], "globex": [classifiers(2)]}, keys=keys)
    headers = {"authorization": "Bearer secret"}
    for answer in (
        server.http.delete("/v1/adapters/acme-x", headers=headers),
        server.http.post("/v1/adapters/acme-x", headers=headers),
        server.http.post("/v1/classify", json={"model": "acme-x", "input": "x"}, headers=headers),
    ):
        status, message = _error(answer)
        assert status == 404
        assert "'acme'" in message
        assert "globex" not in message


def test_a_long_chat_is_not_cut(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)]})
    ask = {"model": "acme", "messages": [{"role": "user", "content": "word " * 700}], "max_tokens": 2}
    assert server.http.post("/v1/chat/completions", json=ask).json()["usage"]["prompt_tokens"] > 700
    ask["messages"] = [{"role": "user", "content": "word " * 3000}]
    status, message = _error(server.http.post("/v1/chat/completions", json=ask))
    assert (status, "are more than the 2048" in message) == (400, True)


def test_a_chat_that_the_template_refuses(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)]})
    server.service.background.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    ask = {"model": "acme", "messages": [{"role": "user", "content": "x"}]}
    status, message = _error(server.http.post("/v1/chat/completions", json=ask))
    assert (status, "roles must alternate" in message) == (400, True)


def test_too_many_stops(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    server = serve(tiny_llama, {"acme": [writers(1)]})
    ask = {"model": "acme", "prompt": "x"}
    for stop in (["a"] * 5, ["x" * 300], "x" * 300):
        assert _error(server.http.post("/v1/completions", json={**ask, "stop": stop}))[0] == 400


def test_a_short_answer_does_not_wait_for_a_long_one(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    """Both run in one batch; and adapters that are not in memory keep nobody else waiting."""
    import asyncio

    import httpx

    server = serve(tiny_llama, {f"a{n}": [writers(n)] for n in range(4)}, max_wait_ms=300, max_resident=2, max_batch=2)

    async def ask() -> list[str]:
        ended: list[str] = []
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:

            async def one(name: str, model: str, tokens: int) -> None:
                body = {"model": model, "prompt": "a text", "max_tokens": tokens, "temperature": 0}
                answer = await http.post("/v1/completions", json=body)
                assert answer.json()["usage"]["completion_tokens"] == tokens
                ended.append(name)

            long = asyncio.create_task(one("long", "a0", 1000))
            await one("short", "a1", 1)  # fills the batch, which then runs
            cold = [asyncio.create_task(one("cold", f"a{2 + n % 2}", 1)) for n in range(40)]
            await asyncio.sleep(0.05)
            assert len((await http.get("/v1/models")).json()["data"]) == 5
            ended.append("models")
            await asyncio.gather(long, *cold)
        return ended

    ended = asyncio.run(ask())
    assert ended.index("short") < ended.index("models") < ended.index("long")


def test_an_answer_that_begins_anew_is_not_doubled() -> None:
    from pefttools.server.generating import Generation

    class Letters:
        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            return "".join(chr(token) for token in tokens)

    pieces: list[str] = []
    generation = Generation([1], 10, ends=frozenset([0]), stop=["xyz"], on_text=pieces.append)
    for token in b"hello x":
        generation.push(token, Letters())
    generation.restart()
    for token in [*b"hello xy!", 0]:
        generation.push(token, Letters())
    assert generation.text == "hello xy!" == "".join(pieces)
    assert generation.reason == "stop"


def test_one_bad_text_fails_alone(serve: Serve, tiny_bert: str, classifiers: Artifacts) -> None:
    server = serve(tiny_bert, {"acme": [classifiers(1)]})
    ask = {"model": "acme", "input": ["one text", " ", "", "word " * 300]}
    assert _error(server.http.post("/v1/classify", json=ask)) == (
        400, "the request, row 2, column 'text': expected text, got ' '. Fill it or drop the row.",
    )  # fmt: skip
    data = server.http.post("/v1/classify", json={**ask, "on_error": "skip"}).json()["data"]
    assert [("label" in one, "error" in one) for one in data] == [(True, False), *[(False, True)] * 2, (True, False)]
    assert data[1]["error"]["message"] == "the request, row 2, column 'text': expected text, got ' '"
    assert "cut_from" not in data[0] and data[3]["cut_from"] == 302  # of 300 words, [CLS] and [SEP]
    single = server.http.post("/v1/classify", json={**ask, "input": "one text"}).json()["data"][0]
    assert single["scores"] == pytest.approx(data[0]["scores"], abs=1e-5)
    assert "error" in server.http.post("/v1/classify", json={**ask, "input": "", "on_error": "skip"}).json()["data"][0]


def test_parts_that_an_adapter_was_not_trained_on(serve: Serve, tiny_bert: str, tmp_path: Path) -> None:
    from pefttools.artifact import save_artifact

    task = {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(tiny_bert, "lora", task=task, labels=["a", "b"], precision="float32")
    save_artifact(model, tmp_path / "pairs", columns={"text": "one", "pair": "other", "label": "label"})
    server = serve(tiny_bert, {"pairs": [tmp_path / "pairs"]})
    refused = server.http.post("/v1/classify", json={"model": "pairs", "input": "single"})
    assert _error(refused)[0] == 404
    assert "the input has no 'pair', but the model was trained with it" in _error(refused)[1]
    pair = {"text": "a", "pair": "b"}
    assert server.http.post("/v1/classify", json={"model": "pairs", "input": pair}).status_code == 200


def test_a_chat_ends_where_the_template_ends_turns(serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    import torch

    server = serve(tiny_llama, {"acme": [writers(1)]})
    pool = server.service.pool
    pool.tokenizer.add_tokens(["[unused1]"], special_tokens=True)
    pool.tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }}[unused1]{% endfor %}"
    ids = pool.tokenizer.convert_tokens_to_ids

    class Script(torch.nn.Module):
        def __init__(self, head: torch.nn.Module) -> None:
            super().__init__()
            self.weight: Any = head.weight
            self.step = 0

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*states.shape[:-1], self.weight.shape[0])  # type: ignore[operator, index]
            logits[..., [ids("hello"), ids("[unused1]"), ids("card")][min(self.step, 2)]] = 1.0
            self.step += 1
            return logits

    model = pool.served.model
    model.lm_head = Script(model.lm_head)  # type: ignore[arg-type]
    for name in ("acme", "base"):
        model.lm_head.step = 0
        ask = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "temperature": 0}
        choice = server.http.post("/v1/chat/completions", json=ask).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "stop")


def test_half_a_character_is_a_wrong_request(
    serve: Serve, tiny_bert: str, tiny_llama: str, classifiers: Artifacts, writers: Artifacts
) -> None:
    def ask(server: Server, path: str, body: str) -> httpx.Response:
        return server.http.post(path, content=body, headers={"content-type": "application/json"})

    server = serve(tiny_bert, {"acme": [classifiers(1)]})
    status, message = _error(ask(server, "/v1/classify", r'{"model": "acme", "input": ["a", "b \ud800"]}'))
    assert status == 400 and "input" in message and "unicode" in message, message
    server = serve(tiny_llama, {"acme": [writers(1)]})
    for path, asked in (
        ("/v1/completions", r'"prompt": "b \ud800"'),
        ("/v1/completions", r'"prompt": "b", "stop": "\ud800"'),
        ("/v1/chat/completions", r'"messages": [{"role": "user", "content": "b \ud800"}]'),
        ("/v1/chat/completions", r'"messages": [{"role": "user", "content": "b"}], "model": "\ud800"'),
    ):
        found = ask(server, path, f'{{"model": "acme", {asked}}}')
        assert found.status_code in (400, 404), (path, asked, found.text)
