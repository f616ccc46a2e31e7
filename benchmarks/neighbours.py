"""One caller's requests, alone and alongside the bulk work of another.

    python benchmarks/neighbours.py
    python benchmarks/neighbours.py --seconds 20 --json

MiniLM with a LoRA per caller. One sends a text at a time and waits for the answer; the other keeps four requests of 256
texts in the queue. Measured in turn: the first alone, the second alone, both. The server runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from mixed_batch import MINILM, make_adapters
from server_load import TEXT, serving

from pefttools.logs import quiet_libraries
from pefttools.store import Store


def asked(url: str, seconds: float) -> list[float]:
    """Latencies, in milliseconds, of one text after another."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    with httpx.Client(base_url=url, timeout=60) as http:
        while time.perf_counter() < end:
            start = time.perf_counter()
            http.post("/v1/classify", json={"model": "a0", "input": TEXT}).raise_for_status()
            found.append(1000 * (time.perf_counter() - start))
            time.sleep(0.05)
    return found


@contextmanager
def flooded(url: str) -> Iterator[list[int]]:
    """A context with four requests of 256 texts in the queue; yields the numbers of texts that were answered."""
    done: list[int] = []
    stop = threading.Event()

    def flood() -> None:
        with httpx.Client(base_url=url, timeout=120) as http:
            while not stop.is_set():
                http.post("/v1/classify", json={"model": "a1", "input": [TEXT] * 256}).raise_for_status()
                done.append(256)

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for one in threads:
        one.start()
    try:
        yield done
    finally:
        stop.set()
        for one in threads:
            one.join()


def round_of(url: str, seconds: float) -> dict[str, float]:
    """Both callers, each alone and together."""
    asked(url, 2)
    alone = statistics.quantiles(asked(url, seconds), n=100)
    time.sleep(6)  # so that nobody else is about
    with flooded(url) as done:
        time.sleep(2)
        before, start = sum(done), time.perf_counter()
        time.sleep(seconds)
        bulk_alone = (sum(done) - before) / (time.perf_counter() - start)
        asked(url, 2)
        before, start = sum(done), time.perf_counter()
        beside = statistics.quantiles(asked(url, seconds), n=100)
        bulk_beside = (sum(done) - before) / (time.perf_counter() - start)
    return {
        "p50_alone_ms": alone[49], "p99_alone_ms": alone[98], "p50_beside_ms": beside[49], "p99_beside_ms": beside[98],
        "p99_ratio": beside[98] / alone[98], "bulk_rows_per_second_alone": bulk_alone,
        "bulk_rows_per_second_beside": bulk_beside,
    }  # fmt: skip


def main() -> None:
    """Print medians of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    options = parser.parse_args()
    quiet_libraries()
    rounds = []
    with tempfile.TemporaryDirectory() as work:
        store = Store(Path(work, "store"))
        for artifact in make_adapters(MINILM, {"r": 8, "targets": ["query", "value"]}, 2, Path(work, "made")):
            store.add(artifact, artifact.name)
        with serving({"base": MINILM, "store": str(Path(work, "store")), "max_queue": 4096}) as url:
            for _ in range(options.repeat):
                rounds.append(round_of(url, options.seconds))
                print("  ".join(f"{name} {value:.1f}" for name, value in rounds[-1].items()), flush=True)
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print("medians: " + "  ".join(f"{name} {value:.1f}" for name, value in medians.items()))
    if options.json:
        print(json.dumps({"rounds": rounds, "medians": medians}))


if __name__ == "__main__":
    main()
