"""Embeddings by OpenAI's client: numbers, base64, tokens, limits and errors."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

import pefttools

from .conftest import Server

Serve = Callable[..., Server]
TASK = {"name": "sentence-embedding", "projection": True, "max_length": 16}
TEXTS = ["one two", "three four five six seven", "eight"]


@pytest.fixture(scope="module")
def adapters(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two embedders by different methods, and a classifier."""
    folder = tmp_path_factory.mktemp("embedders")
    for number, method in enumerate(("lora", "prefix")):
        model = pefttools.wrap(tiny_bert, method, task={**TASK, "projection": number == 0}, precision="float32")
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2, generator=generator)
        pefttools.save(model, folder / method)
    classifier = pefttools.wrap(tiny_bert, "lora", task="sequence-classification", labels=["a", "b"])
    pefttools.save(classifier, folder / "classifier")
    return {path.name: [path] for path in folder.iterdir()}


def _alone(adapters: dict[str, list[Path]], name: str, texts: list[str]) -> list[Any]:
    return [pytest.approx(one["prediction"], abs=1e-5) for one in pefttools.predict(adapters[name][0], texts)]


def test_adapters_of_several_methods_share_a_batch(adapters: dict[str, list[Path]], tiny_bert: str) -> None:
    pool = pefttools.AdapterPool(tiny_bert)
    for name in ("lora", "prefix"):
        pool.load(name, adapters[name][0])
    alone = {name: _alone(adapters, name, TEXTS) for name in ("lora", "prefix")}
    assert alone["lora"][0] != alone["prefix"][0].expected
    mixed = pool.predict([text for text in TEXTS for _ in alone], ["lora", "prefix"] * len(TEXTS))
    for index, found in enumerate(mixed):
        assert found["prediction"] == alone[("lora", "prefix")[index % 2]][index // 2]


def test_the_official_client(serve: Serve, adapters: dict[str, list[Path]], tiny_bert: str) -> None:
    server = serve(tiny_bert, adapters, max_inputs=4)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    for name in ("lora", "prefix"):
        found = client.embeddings.create(model=name, input=TEXTS)  # asks for base64, and decodes it
        assert [one.index for one in found.data] == [0, 1, 2] and found.model == name
        assert [one.embedding for one in found.data] == _alone(adapters, name, TEXTS)
        plain = client.embeddings.create(model=name, input=TEXTS, encoding_format="float")
        assert [one.embedding for one in plain.data] == [one.embedding for one in found.data]
        tokens = server.service.pool.tokenizer(TEXTS)["input_ids"]
        assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, tokens))
        by_tokens = client.embeddings.create(model=name, input=tokens)
        assert [one.embedding for one in by_tokens.data] == [pytest.approx(one.embedding) for one in found.data]
    single = client.embeddings.create(model="lora", input=TEXTS[0], user="me")
    assert [one.embedding for one in single.data] == _alone(adapters, "lora", TEXTS[:1])
    one = client.embeddings.create(model="lora", input=[101, 2028, 102])
    assert len(one.data) == 1 and one.usage.prompt_tokens == 3

    def refused(status: type[openai.APIStatusError], said: str, **given: Any) -> None:
        with pytest.raises(status, match=said):
            client.embeddings.create(**{"model": "lora", "input": "one", **given})

    bad = openai.BadRequestError
    refused(bad, "dimensions is not supported here; leave it out", dimensions=8)
    refused(bad, r"input 1 has 23 tokens, but this model takes at most 16", input=["one", "two " * 21])
    refused(bad, "input 0 has 17 tokens", input=[101] * 17)
    refused(bad, r"there is no token 99999; the base has 30,522", input=[101, 99999])
    refused(bad, "at most 4 texts", input=["one"] * 5)
    refused(bad, "row 2, column 'input': expected text", input=["one", " "])
    refused(bad, "input", input=[])
    refused(bad, "input", input=[[]])
    refused(bad, "input", input=["one", [1]])
    refused(openai.NotFoundError, "the model 'classifier@1' does not produce embeddings", model="classifier")
    refused(openai.NotFoundError, "the model 'base' does not produce embeddings", model="base")
    refused(openai.NotFoundError, "nobody", model="nobody")
    raw = server.http.post("/v1/embeddings", json={"model": "lora", "input": "one", "encoding_format": "base64"}).json()
    numbers = array("f", base64.b64decode(raw["data"][0]["embedding"]))
    assert numbers.tolist() == client.embeddings.create(model="lora", input="one").data[0].embedding
    found_by_predict = server.http.post("/v1/predict", json={"model": "lora", "input": "one"}).json()
    assert found_by_predict["data"][0]["prediction"] == pytest.approx(numbers.tolist(), abs=1e-7)
