"""Every answer is the tenant's own, whatever else the server is doing."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import pefttools
from pefttools.store import Store

from .conftest import Server

TEXTS = ["a short text", "another text that is a good deal longer than the first", "third", "one more with words"]
#: by variant, of a probability; bfloat16 rounds to three digits, and nf4 computes in it
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "int8": 1e-3, "nf4": 5e-3}
METHODS: list[dict[str, Any]] = [
    {"name": "lora", "r": 2},
    {"name": "ia3"},
    {"name": "bottleneck", "size": 4},
    {"name": "prefix", "length": 3},
    {"name": "bitfit"},
]


def _adapter(base: str, variant: str, number: int, folder: Path) -> list[list[float]]:
    """An adapter with weights of its own; gives its probabilities for each text, alone."""
    model = pefttools.wrap(
        base, METHODS[number % len(METHODS)], task={"name": "sequence-classification", "head": "mean"},
        labels=list("abcdefgh"), precision="float32",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    pefttools.save(model, folder)
    model = pefttools.load(folder, variant=variant)
    found = []
    for text in TEXTS:
        inputs = model.tokenizer(text, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        found.append(model.run_batch(dict(inputs))[0].double().softmax(-1).tolist())
    return found


@pytest.mark.parametrize(("variant", "rows", "tenants"), [
    ("float32", 2_500, 12),
    pytest.param("float32", 20_000, 12, marks=pytest.mark.slow),
    *(pytest.param(variant, 5_000, 12, marks=pytest.mark.slow) for variant in ("bfloat16", "int8", "nf4")),
    pytest.param("float32", 100_000, 200, marks=pytest.mark.slow),
])  # fmt: skip
def test_every_answer_is_its_own(
    variant: str, rows: int, tenants: int, serve: Callable[..., Server], tiny_bert: str, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    expected: dict[str, list[list[float]]] = {}
    for tenant in range(tenants):
        for version in (1, 2):
            folder = tmp_path / "artifacts" / f"{tenant}-{version}"
            number = 2 * tenant + version
            expected[f"tenant{tenant}@{version}"] = _adapter(tiny_bert, variant, number, folder)
            store.add(folder, f"tenant{tenant}", tag="prod")
    # No two adapters can be taken for one another: on each text they differ by more than is forgiven below.
    for text in range(len(TEXTS)):
        answers = torch.tensor([probabilities[text] for probabilities in expected.values()])
        distances = torch.cdist(answers, answers, p=torch.inf) + torch.eye(len(answers))
        assert float(distances.min()) > 3 * TOLERANCE[variant]
    server = serve(tiny_bert, {}, variant=variant, max_resident=max(12, tenants // 5), max_queue=100_000, max_wait_ms=2)
    stop = threading.Event()
    disturbed = {"tag": 0, "load": 0, "unload": 0}

    def disturb() -> None:
        draw = random.Random(1)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while not stop.is_set():
                name = f"tenant{draw.randrange(tenants)}"
                kind = draw.choice(list(disturbed))
                if kind == "tag":
                    store.tag(name, draw.choice((1, 2)), "prod")
                elif kind == "load":
                    http.post(f"/v1/adapters/{name}", json={"version": "prod"}).raise_for_status()
                else:
                    http.delete(f"/v1/adapters/{name}").raise_for_status()
                disturbed[kind] += 1
                stop.wait(0.005)

    async def ask() -> tuple[int, int, set[str]]:
        wrong = done = 0
        versions: set[str] = set()
        draw = random.Random(0)

        async def worker(http: httpx.AsyncClient) -> None:
            nonlocal wrong, done
            while done < rows:
                size = draw.choice((1, 5, 25, 120))
                done += size
                tenant = draw.randrange(tenants)
                texts = [draw.randrange(len(TEXTS)) for _ in range(size)]
                ask = {"model": f"tenant{tenant}@prod", "input": [TEXTS[text] for text in texts]}
                answer = await http.post("/v1/classify", json=ask)
                assert answer.status_code == 200, answer.text
                body = answer.json()
                # One version per request, and all of its rows are that version's.
                name = body["model"]
                assert name.startswith(f"tenant{tenant}@")
                versions.add(name)
                for text, entry in zip(texts, body["data"], strict=True):
                    wanted = expected[name][text]
                    off = max(abs(a - b) for a, b in zip(entry["scores"].values(), wanted, strict=True))
                    wrong += off > TOLERANCE[variant]

        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            await asyncio.gather(*(worker(http) for _ in range(8)))
        return wrong, done, versions

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        wrong, done, versions = asyncio.run(ask())
    finally:
        stop.set()
        thread.join()
    assert wrong == 0
    assert done >= rows
    assert len(versions) > tenants
    assert min(disturbed.values()) > 3
    assert len(server.service.pool.resident) <= max(12, tenants // 5)
