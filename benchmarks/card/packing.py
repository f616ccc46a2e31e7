"""(e) Rows without padding: on for every variant, the same loss, and how much faster."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch

from card.setting import SMOLLM2, VARIANTS, Case, Figures, Setting, apart, loss_of, texts


def cases(setting: Setting) -> Iterator[Case]:
    """A case per variant."""
    for variant in VARIANTS:
        yield variant, partial(_packed, setting, variant)


def _packed(setting: Setting, variant: str) -> Figures:
    precision = "float32" if variant == "float32" else "bfloat16"
    rows, longest = (16, 1024) if setting.on_card else (4, 48)
    examples = texts(rows, longest // 8, longest)
    model = setting.build(SMOLLM2, "lora", variant, precision)
    shapes, losses, seconds = [], [], []
    for packed in (True, False):
        with mock.patch("pefttools.tasks.language.padding_free.pays", return_value=packed):
            shapes.append(list(model.spec.task.training_batch(model, examples)["input_ids"].shape))
            with torch.no_grad():
                losses.append(loss_of(model.eval(), examples))
            model.train()
            seconds.append(setting.seconds(lambda: loss_of(model, examples).backward(), 5 if setting.on_card else 1))
    difference = apart(losses[0], losses[1])
    return {"batch": shapes[0], "unpacked": shapes[1], "difference": difference,
            "time_to_unpacked": round(statistics.median(seconds[0]) / statistics.median(seconds[1]), 3),
            "ok": shapes[0][0] == 1 and difference < (1e-3 if variant == "float32" else 0.02)}  # fmt: skip
