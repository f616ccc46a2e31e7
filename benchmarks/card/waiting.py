"""(k) How often the CPU waits for the GPU: per training step, per batch of a pool, per generated token."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from card.generation import METHODS, PROMPTS
from card.setting import ENCODER, MINILM, SMOLLM2, Case, Figures, Setting, loss_of, texts
from pefttools.pool import AdapterPool


def cases(setting: Setting) -> Iterator[Case]:
    """Needs a GPU to wait for; `benchmarks/syncs.py` counts the same operations on the CPU."""
    yield "training step", partial(_training, setting)
    yield "classifying", partial(_classifying, setting)
    yield "generating", partial(_generating, setting)


def _waits(run: Callable[[], Any]) -> tuple[int, list[str]]:
    """The number of waits, and the lines of our own code that waited most."""
    if not torch.cuda.is_available():
        run()
        return 0, []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = [
        f"{'/'.join(one.filename.split('/')[-2:])}:{one.lineno}" for one in told if "synchroniz" in str(one.message)
    ]
    return len(lines), [f"{count} {line}" for line, count in Counter(lines).most_common(8)]


def _training(setting: Setting) -> Figures:
    model = setting.build(SMOLLM2, "lora", precision="bfloat16").train()
    examples = texts(4, 16, 48)
    loss_of(model, examples).backward()
    count, lines = _waits(lambda: loss_of(model, examples).backward())
    return {"waits": count, "lines": lines}


def _classifying(setting: Setting) -> Figures:
    pool = AdapterPool(MINILM, device=setting.device)
    for method in ("lora", "prefix"):
        pool.load(method, setting.artifact(MINILM, method, f"waiting-{method}", task=ENCODER))
    found: Figures = {}
    for rows in (4, 32):
        inputs, names = ["where is my card?"] * rows, (["lora", "prefix"] * rows)[:rows]
        pool(inputs, names)
        found[f"waits {rows} rows"], found[f"lines {rows} rows"] = _waits(partial(pool, inputs, names))
    return found | {"ok": found["waits 32 rows"] <= found["waits 4 rows"]}


def _generating(setting: Setting) -> Figures:
    pool = AdapterPool(SMOLLM2, device=setting.device)
    for method in METHODS:
        pool.load(method, setting.artifact(SMOLLM2, method, f"waiting-lm-{method}"))
    names = [None, *METHODS]
    counts, lines = [], []
    for new in (8, 16):

        def run(new: int = new) -> None:
            pool.generate(PROMPTS, names, max_new_tokens=new, min_new_tokens=new)

        run()
        count, lines = _waits(run)
        counts.append(count)
    return {"per_call": counts, "per_token": (counts[1] - counts[0]) / 8, "lines": lines}
