"""Two replicas on Ray Serve."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from pefttools.server import Settings
from pefttools.store import Store


@pytest.mark.slow
def test_two_replicas(tiny_llama: str, writers: Callable[[int], Path], tmp_path: Path) -> None:
    import ray
    from ray import serve

    from pefttools.server.ray import build

    store = Store(tmp_path / "store")
    for number in range(6):
        store.add(writers(number), f"a{number}")
    ray.init(num_cpus=3, include_dashboard=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": 18431})
        settings = Settings(base=tiny_llama, store=str(tmp_path / "store"), max_resident=4)
        serve.run(build(settings, replicas=2, cpus=0.5), name="pefttools")
        url = "http://127.0.0.1:18431"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
        ask = {"prompt": "a text that goes on", "max_tokens": 6, "temperature": 0}
        first = {n: client.completions.create(model=f"a{n}", **ask).choices[0].text for n in range(6)}  # type: ignore[call-overload]
        assert len(set(first.values())) == 6
        for number in [0, 3, 5, 1, 2, 4] * 4:
            done = client.completions.create(model=f"a{number}", **ask)  # type: ignore[call-overload]
            assert done.choices[0].text == first[number]
        streamed = client.completions.create(model="a1", stream=True, **ask)  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].text for chunk in streamed) == first[1]
        # Six adapters fit only in both pools together, and each stays where it is.
        figures = [httpx.get(f"{url}/metrics").text for _ in range(20)]
        resident = {float(re.findall(r"^pefttools_resident_adapters (\S+)$", text, re.M)[0]) for text in figures}
        assert resident and all(0 < number <= 4 for number in resident)
        assert httpx.post(f"{url}/v1/completions", json={"model": "a9", "prompt": "x"}).status_code == 404
        assert httpx.post(f"{url}/v1/completions", content=b"{").status_code == 400
    finally:
        serve.shutdown()
        ray.shutdown()
