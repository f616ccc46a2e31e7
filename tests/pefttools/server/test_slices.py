"""Answers that give way to others and go on later are what they would have been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Server

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]


async def _ask(http: httpx.AsyncClient, body: dict[str, Any]) -> Any:
    answer = await http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> str:
    import json

    text = ""
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    return text


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_answers_are_the_same_in_pieces(temperature: float, serve: Serve, tiny_llama: str, writers: Artifacts) -> None:
    adapters = {f"a{number}": [writers(number)] for number in range(3)}
    server = serve(tiny_llama, adapters, max_run_ms=0, max_wait_ms=1)
    long = [
        {"model": f"a{number}", "prompt": f"a text of number {number} that goes on", "max_tokens": 60 + 7 * number,
         "temperature": temperature, "seed": number}
        for number in range(3)
    ]  # fmt: skip
    short = {"model": "a0", "prompt": "a short text", "max_tokens": 2, "temperature": 0}
    order: list[str] = []

    async def noted(name: str, asked: Any) -> Any:
        found = await asked
        order.append(name)
        return found

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            alone = [(await _ask(http, body))["choices"][0]["text"] for body in long]
            running = [asyncio.create_task(noted("long", _ask(http, body))) for body in long]
            running.append(asyncio.create_task(noted("long", _streamed(http, long[1]))))
            await asyncio.sleep(0.02)
            for _ in range(8):
                await noted("short", _ask(http, short))
            *whole, streamed = await asyncio.gather(*running)
            assert [one["choices"][0]["text"] for one in whole] == alone
            assert streamed == alone[1]
            assert [one["usage"]["completion_tokens"] for one in whole] == [60, 67, 74]
        assert order.index("short") < order.index("long"), "a short answer waited for all of the long ones"

    asyncio.run(ask())
