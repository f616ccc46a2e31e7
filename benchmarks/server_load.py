"""The server under load: many tenants' requests batched together, against the same server one adapter at a time.

    python benchmarks/server_load.py
    python benchmarks/server_load.py --seconds 20 --tenants 64 --clients 32 --json

Both run MiniLM with a LoRA and a head per tenant. Clients send one text at a time, for a randomly drawn tenant, and
wait for the answer. The server runs in its own process on loopback; the two kinds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from mixed_batch import MINILM, make_adapters

from pefttools.logs import quiet_libraries
from pefttools.store import Store

SERVER = """
import gc, sys, uvicorn
from pefttools.server.connections import listening
from pefttools.logs import quiet_libraries
from pefttools.server import Settings
from pefttools.server.app import create_app
from pefttools.server.service import Service
quiet_libraries()
settings = Settings.model_validate_json(sys.argv[1])
service = Service(settings)
gc.collect()
gc.freeze()  # as `pefttools serve`
server = uvicorn.Server(listening(create_app(settings, service), settings, "127.0.0.1", 0, log_level="error"))
started = server.startup
async def startup(sockets=None):
    await started(sockets)
    print("port", server.servers[0].sockets[0].getsockname()[1], flush=True)
server.startup = startup
server.run()
"""
TEXT = "please tell me when my new card will arrive, it has been two weeks"


async def load(url: str, tenants: int, clients: int, seconds: float) -> list[float]:
    """Latencies in milliseconds."""
    found: list[float] = []
    draw = random.Random(0)

    async def client(http: httpx.AsyncClient, end: float) -> None:
        while time.perf_counter() < end:
            model = f"a{draw.randrange(tenants)}"
            start = time.perf_counter()
            answer = await http.post("/v1/classify", json={"model": model, "input": TEXT})
            answer.raise_for_status()
            found.append(1000 * (time.perf_counter() - start))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        for tenant in range(tenants):  # everything resident
            (await http.post(f"/v1/adapters/a{tenant}")).raise_for_status()
        await asyncio.gather(*(client(http, time.perf_counter() + 2) for _ in range(clients)))
        found.clear()
        await asyncio.gather(*(client(http, time.perf_counter() + seconds) for _ in range(clients)))
    return found


@contextlib.contextmanager
def serving(settings: dict[str, Any]) -> Iterator[str]:
    """A server in its own process; yields its address."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = next(int(m[1]) for line in process.stdout if (m := re.match(r"port (\d+)", line)))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def run(settings: dict[str, Any], tenants: int, clients: int, seconds: float) -> dict[str, float]:
    """One server under load."""
    with serving(settings) as url:
        latencies = asyncio.run(load(url, tenants, clients, seconds))
    cuts = statistics.quantiles(latencies, n=100)
    return {"requests_per_second": len(latencies) / seconds, "p50_ms": cuts[49], "p99_ms": cuts[98]}


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=64)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    options = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as work:
        artifacts = make_adapters(MINILM, {"r": 8, "targets": ["query", "value"]}, options.tenants, Path(work, "made"))
        store = Store(Path(work, "store"))
        for artifact in artifacts:
            store.add(artifact, artifact.name)
        common = {"base": MINILM, "store": str(Path(work, "store")), "max_resident": options.tenants}
        kinds = {"together": common, "one at a time": {**common, "max_adapters": 1}}
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(options.repeat):
            for kind, settings in kinds.items():
                found[kind].append(run(settings, options.tenants, options.clients, options.seconds))
                print(f"{kind:14} " + "  ".join(f"{k} {v:.1f}" for k, v in found[kind][-1].items()), flush=True)
    ratios = [
        a["requests_per_second"] / b["requests_per_second"]
        for a, b in zip(found["together"], found["one at a time"], strict=True)
    ]
    print(f"throughput, median of {len(ratios)} pairs: {statistics.median(ratios):.2f} times")
    if options.json:
        print(json.dumps({"rows": found, "ratio": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
