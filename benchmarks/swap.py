"""Changing adapters: the pool against PEFT's ``load_adapter`` and ``set_adapter``, on MiniLM with LoRA.

    python benchmarks/swap.py
    python benchmarks/swap.py --known 1,100 --json

Loading ("ready"): from files on disk to weights that a row can use; for the pool with every digest checked and the
least recently used adapter evicted, for PEFT unchecked. Switching: from one adapter in memory to another. Both sides
take turns. The pool holds 32 adapters at a time; the number of known adapters varies. PEFT has 32 adapters loaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mixed_batch import MINILM, make_adapters

from pefttools.logs import quiet_libraries
from pefttools.pool import AdapterPool

RESIDENT = 32
#: timed together, since a single one is too short
SWITCHES = 20


def timed(action: Any, *arguments: Any, **options: Any) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    action(*arguments, **options)
    return 1000 * (time.perf_counter() - start)


def switch_pool(pool: AdapterPool, allocations: list[Any], turn: int) -> None:
    """Route a batch of 64 rows to one adapter after another."""
    for number in range(turn, turn + SWITCHES):
        pool._weight_slots.route([allocations[number % len(allocations)]] * 64)


def switch_peft(tuned: Any, turn: int) -> None:
    """Activate one adapter after another."""
    for number in range(turn, turn + SWITCHES):
        tuned.set_adapter(f"a{number % RESIDENT}")


def measure(artifacts: list[Path], known: int, repeat: int, tuned: Any) -> dict[str, Any]:
    """One row of the table."""
    pool = AdapterPool(MINILM, max_resident=RESIDENT)
    for number in range(known):
        pool.register(str(number), artifacts[number % len(artifacts)])
    resident = min(known, RESIDENT)
    for number in range(resident):
        pool.ensure(str(number))
    held_before = pool.bytes()
    residents = [pool._cache.get(str(number)) for number in range(resident)]
    allocations = [one.allocation for one in residents if one is not None]
    samples: dict[str, list[float]] = {"pool_ready": [], "peft_ready": [], "pool_switch": [], "peft_switch": []}
    for turn in range(repeat + 3):
        name = str((turn * 37 + resident) % known)
        pool.evict(name)
        now = {"pool_ready": timed(pool.ensure, name)}
        artifact = artifacts[turn % len(artifacts)]
        now["peft_ready"] = timed(tuned.load_adapter, str(artifact), adapter_name="new")
        tuned.delete_adapter("new")
        now["pool_switch"] = timed(switch_pool, pool, allocations, turn) / SWITCHES
        now["peft_switch"] = timed(switch_peft, tuned, turn) / SWITCHES
        if turn >= 3:
            for kind, value in now.items():
                samples[kind].append(value)
    return {
        "known": known,
        "resident": len(pool.resident),
        "pool_bytes": pool.bytes(),
        "grew": pool.bytes() - held_before,
        **{f"{kind}_ms": round(statistics.median(values), 4) for kind, values in samples.items()},
        "ready_ratio": round(statistics.median(
            p / o for p, o in zip(samples["peft_ready"], samples["pool_ready"], strict=True)), 1),
        "switch_ratio": round(statistics.median(
            p / o for p, o in zip(samples["peft_switch"], samples["pool_switch"], strict=True)), 1),
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    import peft
    from transformers import AutoModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", default="1,10,100,1000,10000")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    options = parser.parse_args()
    quiet_libraries()
    folder = Path(tempfile.mkdtemp())
    artifacts = make_adapters(MINILM, {"r": 8, "targets": ["query", "value"]}, RESIDENT + 1, folder)
    base = AutoModel.from_pretrained(AdapterPool(MINILM).served.base.folder, add_pooling_layer=False)
    tuned: Any = peft.PeftModel.from_pretrained(base, str(artifacts[0]), adapter_name="a0")
    for number in range(1, RESIDENT):
        tuned.load_adapter(str(artifacts[number]), adapter_name=f"a{number}")
    table = []
    print("  known resident  pool MB | ready: pool ms  PEFT ms  times | switch: pool ms  PEFT ms  times")
    for known in (int(one) for one in options.known.split(",")):
        row = measure(artifacts, known, options.repeat, tuned)
        table.append(row)
        print(f"{row['known']:7} {row['resident']:8} {row['pool_bytes'] / 1e6:8.1f} | {row['pool_ready_ms']:14.2f} "
              f"{row['peft_ready_ms']:8.1f} {row['ready_ratio']:6.1f} | {row['pool_switch_ms']:15.4f} "
              f"{row['peft_switch_ms']:8.2f} {row['switch_ratio']:6.0f}", flush=True)  # fmt: skip
    shutil.rmtree(folder)
    if options.json:
        print(json.dumps({"rows": table}))


if __name__ == "__main__":
    main()
