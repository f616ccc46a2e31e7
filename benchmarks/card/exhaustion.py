"""(g) Out of memory: a pool evicts adapters, a batch that is too large is recognized, and no memory is leaked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from card.setting import MINILM, SMOLLM2, Case, Figures, Setting, rows_for, scarce
from pefttools.compute.optimizers import make_optimizer
from pefttools.errors import CapacityError, is_out_of_memory
from pefttools.pool import AdapterPool
from pefttools.training.step import optimizer_step

MIB = 1 << 20


def cases(setting: Setting) -> Iterator[Case]:
    """A pool, and a training step."""
    yield "a pool", partial(_pool, setting)
    yield "a training step", partial(_step, setting)


def _pool(setting: Setting) -> Figures:
    folders = [setting.artifact(MINILM, {"name": "lora", "r": 64}, f"large-{number}") for number in range(2)]
    larger = setting.artifact(MINILM, {"name": "lora", "r": 128}, "larger")
    pool = AdapterPool(MINILM, device=setting.device)
    pool.load("first", folders[0])
    before = pool.bytes()
    with scarce(setting, MIB):
        try:
            pool.load("larger", larger)
            gave = "loaded"
        except CapacityError as error:
            gave = f"CapacityError: {error}"
    pool.load("second", folders[1])
    answer = pool(["does it still answer?"], ["second"])[0]
    return {"without room": gave[:120], "evictions": pool.evictions, "bytes": before,
            "ok": gave.startswith("CapacityError") and answer.label is not None}  # fmt: skip


def _step(setting: Setting) -> Figures:
    model = setting.build(SMOLLM2, "lora").train()
    optimizer = make_optimizer("adamw", [p for p in model.parameters() if p.requires_grad], 1e-3)
    small = rows_for(SMOLLM2, 2, 8, 8)
    optimizer_step(model, small, 1, optimizer)
    held = setting.clean()
    understood = False
    large = rows_for(SMOLLM2, 32, 256, 256) if setting.on_card else rows_for(SMOLLM2, 4, 64, 64)
    with scarce(setting, 64 * MIB if setting.on_card else MIB // 4):
        try:
            optimizer_step(model, large, 1, optimizer)
        except Exception as error:  # a card says it in more than one way
            understood = is_out_of_memory(error)
            said = str(error)[:120]
        else:
            said = "it fitted"
    optimizer.zero_grad()
    kept = setting.clean() - held
    optimizer_step(model, small, 1, optimizer)
    return {"said": said, "understood": understood, "kept_bytes": kept, "ok": understood and kept < 8 * MIB}
