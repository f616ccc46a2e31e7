"""(f) The planner against the allocator: plans are made in advance, on a CPU, and read from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from card.setting import DECODER, ENCODER, MINILM, SMOLLM2, Case, Figures, Setting
from pefttools.bases.skeleton import skeleton
from pefttools.compute.optimizers import make_optimizer
from pefttools.planning.device import CPU, Device, find_device
from pefttools.planning.plan import Planned, Shape
from pefttools.training.step import optimizer_step

#: what was planned for a GPU
PLANS = Path(__file__).parent / "plans.json"
#: base, method, variant, precision, optimizer, checkpointing, rows, tokens
CASES: list[tuple[str, str, str, Any, str, Any, int, int]] = [
    ("minilm", "full", "float32", "bfloat16", "adamw", False, 32, 128),
    ("decoder", "lora", "float32", "bfloat16", "adamw", False, 8, 256),
    ("decoder", "bottleneck", "nf4", "bfloat16", "adamw", False, 8, 256),
    ("wide", "lora", "bfloat16", "bfloat16", "adamw", "selective", 8, 256),
    ("wide", "lora", "nf4", "bfloat16", "adamw", True, 16, 512),
    ("wide", "full", "float32", "float32", "adamw_8bit", False, 4, 128),
]


def cases(setting: Setting) -> Iterator[Case]:
    """A case per shape."""
    # There are no stored plans for a dry run's small shapes: they are planned where they run.
    expected = {} if setting.small else json.loads(PLANS.read_text(encoding="utf-8"))
    for number, case in enumerate(CASES):
        yield " ".join(map(str, case)), partial(_case, setting, case, expected.get(str(number)))


def write_plans(setting: Setting, card: str) -> None:
    """Plan all cases for a GPU; needs none."""
    found = {}
    for number, case in enumerate(CASES):
        found[str(number)] = _planned(setting, case, find_device(card))
        print(f"{found[str(number)] / 2**20:9.1f} MiB  {case}", flush=True)
    PLANS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _base(setting: Setting, name: str) -> str:
    return {"minilm": MINILM, "decoder": SMOLLM2}.get(name) or setting.wide


def _shape(setting: Setting, case: Any) -> Shape:
    _, _, _, precision, optimizer, recompute, rows, length = case
    if setting.small:
        rows, length = min(rows, 4), min(length, 64)
    return Shape(rows, length, precision=precision, gradient_checkpointing=recompute, optimizer=optimizer)


def _planned(setting: Setting, case: Any, device: Device) -> int:
    base, method, variant = case[:3]
    task, labels = (ENCODER, 2) if base == "minilm" else (DECODER, 0)
    planned = Planned(skeleton(_base(setting, base)), task, method, variant, labels, device)
    return planned.training_bytes(_shape(setting, case))


def _case(setting: Setting, case: Any, expected: int | None) -> Figures:
    if expected is None:
        expected = _planned(setting, case, CPU)
    if setting.on_card:
        for dtype in (torch.float32, torch.bfloat16):
            # The workspace of matrix products is allocated by the first of them and stays: it is there in every case.
            torch.ones(8, 8, device="cuda", dtype=dtype) @ torch.ones(8, 8, device="cuda", dtype=dtype)
    before = setting.clean()
    base, method, variant, precision = case[:4]
    shape = _shape(setting, case)
    model = setting.build(_base(setting, base), method, variant, precision, shape.gradient_checkpointing)
    model.train()
    optimizer = make_optimizer(shape.optimizer, [p for p in model.parameters() if p.requires_grad], 1e-5)
    examples = [model.spec.task.planned_example(shape.length)] * shape.rows
    optimizer_step(model, examples, shape.accumulation, optimizer)
    found = setting.peak_bytes(
        lambda: optimizer_step(model, examples, shape.accumulation, optimizer), model, before, optimizer
    )
    ratio = expected / found
    return {"predicted": expected, "allocated": found, "ratio": round(ratio, 4), "ok": abs(ratio - 1) <= 0.05}
