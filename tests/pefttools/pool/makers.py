"""Small trained adapters of every method, and what each gives alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pefttools
from pefttools.methods import methods
from pefttools.tuned import TunedModel

from ...methods import NEEDED, OTHERS

TEXTS = ["a short text", "another text that is a good deal longer than the first", "third", "and one more, a fourth"]

#: per method, four adapters that differ in options as well as in their weights
VARIED: dict[str, list[dict[str, Any]]] = {
    "head": [{}] * 4,
    "untuned": [{}] * 4,
    "lora": [{"r": 4}, {"r": 12, "rslora": True}, {"r": 4, "dora": True}, {"r": 3, "pissa": True}],
    "ia3": [{}] * 4,
    "prefix": [{"length": 5}, {"length": 2}, {"length": 9}, {"length": 5}],
    "prompt": [{"length": 5}, {"length": 2}, {"length": 9}, {"length": 5}],
    "bottleneck": [
        {"size": 8},
        {"size": 5, "placement": "pfeiffer", "activation": "relu"},
        {"size": 12, "placement": "parallel", "scale": 2.0},
        {"size": 8, "placement": "feed-forward", "activation": "tanh"},
    ],
    "bitfit": [{}] * 4,
    **{name: [NEEDED.get(name, {})] * 4 for name in OTHERS if methods.get(name).capabilities.deltas},
}
#: head of the task -> task
TASKS: dict[str, dict[str, Any]] = {
    "mean": {"name": "sequence-classification", "head": "mean"},
    "last": {"name": "sequence-classification", "head": "last"},
    "model": {"name": "sequence-classification", "head": "model"},
    "lm": {"name": "causal-lm"},
}

Make = Callable[[str, str, str, int], Path]


def make(base: str, head: str, method: str, number: int, folder: Path) -> Path:
    """Train an adapter for a few large steps and save it; number tells options, labels and weights apart."""
    labels = [] if head == "lm" else [f"{method}-{number}-{index}" for index in range(2 + number)]
    options = VARIED[method][number]
    model = pefttools.wrap(
        base, {"name": method, **options}, task=TASKS[head], labels=labels, precision="float32", seed=number
    )
    generator = torch.Generator().manual_seed(number)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.02)
    model.train()
    for _ in range(3):
        inputs = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        logits = model(**inputs)
        if not logits.requires_grad:
            break
        targets = torch.randint(0, logits.shape[-1], logits.shape[:-1], generator=generator)
        torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    pefttools.save(model, folder)
    return folder


def alone(model: TunedModel, text: str) -> torch.Tensor:
    """What a model gives for one text without padding: logits ``[labels]`` or ``[tokens, vocabulary]``."""
    inputs = model.tokenizer(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return model.run_batch(dict(inputs))[0]


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within the tolerance of float32: 1e-4 times the largest logit, or times 1."""
    assert found.shape == wanted.shape
    largest = max(1.0, float(wanted.abs().max()))
    error = float((found - wanted).abs().max())
    assert error <= 1e-4 * largest, f"off by {error:.2e}, largest logit {largest:.2f}"
