"""(i) A compiled pool compiles no new graphs after its warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

from card.setting import ENCODER, MINILM, Case, Figures, Setting, apart
from pefttools.pool import AdapterPool


def cases(setting: Setting) -> Iterator[Case]:
    """One."""
    yield "MiniLM", partial(_compiled, setting)


def _compiled(setting: Setting) -> Figures:
    methods = ("lora", "bottleneck") if setting.on_card else ("lora",)
    folders = {name: setting.artifact(MINILM, name, f"compiled-{name}", task=ENCODER) for name in methods}
    pools = [AdapterPool(MINILM, device=setting.device, compile=compiled) for compiled in (True, False)]
    for pool in pools:
        for name, folder in folders.items():
            pool.load(name, folder)
    warm = pools[0].warm_up()
    before = pools[0]._runner._run.graphs()
    worst = 0.0
    for rows in (1, 2, 3, 7, 16):
        names = [None, *folders] * 16
        inputs = [f"{'please tell me ' * (1 + row % 5)} where my card is" for row in range(rows)]
        found, wanted = (pool(inputs, names[:rows]) for pool in pools)
        for a, b in zip(found, wanted, strict=True):
            if a.logits is not None and b.logits is not None:
                worst = max(worst, apart(a.logits, b.logits))
    graphs = pools[0]._runner._run.graphs()
    rows = 64 if setting.on_card else 4
    inputs, names = ["please tell me where my new card is"] * rows, ([*folders] * rows)[:rows]
    compiled, plain = (statistics.median(setting.seconds(partial(pool, inputs, names), 9)) for pool in pools)
    return {"graphs": warm.graphs, "warm_up_seconds": round(warm.seconds, 1), "new_graphs": graphs - before,
            "difference": worst, "time_to_plain": round(compiled / plain, 3),
            "ok": graphs == before and worst < 2e-3}  # fmt: skip
