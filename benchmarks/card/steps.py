"""(a) One training step of each method on each variant: is its loss the CPU's, and does the step change it?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from card.setting import MINILM, SMOLLM2, VARIANTS, Case, Figures, Setting, apart, loss_of, rows_for
from pefttools.compute.optimizers import make_optimizer
from pefttools.training.step import optimizer_step

METHODS = ("lora", "bottleneck", "prefix", "full")
#: largest difference of the losses: rounding of the compute format, and for int8 of its kernels
BOUNDS = {"float32": 1e-3, "bfloat16": 0.02, "int8": 0.05, "nf4": 0.02}


def cases(setting: Setting) -> Iterator[Case]:
    """A case per base, method and variant."""
    import torch

    for base in (MINILM, SMOLLM2):
        for variant in VARIANTS:
            for method in METHODS:
                if method == "full" and variant in ("int8", "nf4"):
                    continue
                name = "MiniLM" if base == MINILM else "decoder"
                chosen: Any = method
                if method == "full" and variant == "bfloat16":
                    chosen = {"name": "full", "master_weights": False}
                yield f"{name} {method} {variant}", partial(_step, setting, base, chosen, variant)
    half = partial(_step, setting, MINILM, "lora", "float32", "bfloat16", 0.02)
    yield "MiniLM lora float32, bfloat16 autocast", half
    if not torch.cuda.is_available():
        return
    yield "MiniLM lora float32, float16 autocast", partial(_step, setting, MINILM, "lora", "float32", "float16", 0.02)
    yield "MiniLM lora nf4, float16 autocast", partial(_step, setting, MINILM, "lora", "nf4", "float16", 0.02)


def _step(
    setting: Setting, base: str, method: Any, variant: str, precision: str | None = None, bound: float | None = None
) -> Figures:
    import torch

    precision = precision or ("float32" if variant == "float32" else "bfloat16")
    bound = bound or BOUNDS[variant]
    examples = rows_for(base, 4, 9, 24)
    cpu_precision = "bfloat16" if precision == "float16" else precision
    reference = setting.build(base, method, variant, cpu_precision, device=torch.device("cpu")).eval()
    with torch.no_grad():
        wanted = loss_of(reference, examples)
    del reference
    model = setting.build(base, method, variant, precision).eval()
    with torch.no_grad():
        before = loss_of(model, examples)
    model.train()
    optimizer = make_optimizer("adamw", [p for p in model.parameters() if p.requires_grad], 1e-3)
    optimizer_step(model, examples, 1, optimizer)
    model.eval()
    with torch.no_grad():
        after = float(loss_of(model, examples))
    difference = apart(before, wanted)
    return {"cpu": float(wanted), "card": float(before), "difference": difference, "after": after,
            "ok": difference <= bound and math.isfinite(after) and after != float(before)}  # fmt: skip
