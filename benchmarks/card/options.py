"""(h) Options that save memory change no results: gradients under checkpointing, steps with 8-bit and paged moments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from card.setting import SMOLLM2, Case, Figures, Setting, apart, loss_of, texts
from pefttools.compute.optimizers import make_optimizer
from pefttools.training.step import optimizer_step


def cases(setting: Setting) -> Iterator[Case]:
    """A case per option."""
    for variant, precision in (("float32", "float32"), ("bfloat16", "bfloat16"), ("nf4", "bfloat16")):
        for recompute in (True, "selective"):
            yield f"checkpointing {recompute} {variant}", partial(_gradients, setting, variant, precision, recompute)
    for optimizer in ("adamw_8bit", "paged_adamw_8bit"):
        yield optimizer, partial(_moments, setting, optimizer)


def _gradients(setting: Setting, variant: str, precision: str, recompute: bool | str) -> Figures:
    examples = texts(4, 16, 48)
    found = []
    for option in (False, recompute):
        model = setting.build(SMOLLM2, "lora", variant, precision, option).train()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.01 * torch.randn(parameter.shape, generator=generator).to(parameter)
        torch.manual_seed(0)
        loss_of(model, examples).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        del model
        setting.clean()
    difference = apart(found[1], found[0])
    return {"difference": difference, "ok": difference < (1e-4 if precision == "float32" else 0.02)}


def _moments(setting: Setting, name: str) -> Figures:
    examples = texts(4, 16, 48)
    after = []
    for one in ("adamw", name):
        model = setting.build(SMOLLM2, "lora").train()
        # bitsandbytes keeps moments of fewer than 4,096 numbers in full precision.
        optimizer = make_optimizer(one, [p for p in model.parameters() if p.requires_grad], 1e-3)
        for _ in range(4):
            optimizer_step(model, examples, 1, optimizer)
        with torch.no_grad():
            after.append(float(loss_of(model.eval(), examples)))
        kinds = sorted({str(t.dtype) for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)})
        del model, optimizer
        setting.clean()
    return {"adamw": after[0], name: after[1], "moments": kinds,
            "ok": abs(after[1] - after[0]) < 0.05 * abs(after[0]) and "torch.uint8" in kinds}  # fmt: skip
