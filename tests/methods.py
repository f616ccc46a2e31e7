"""The registered methods, as tests go through them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from pefttools.methods import methods

#: of which most is tested, every day; of the others every contract once a day, and the rest slowly
CORE = ("full", "head", "lora", "ia3", "prefix", "prompt", "bottleneck", "bitfit", "untuned")
#: options that have no default: [SEP], [CLS] and words of the texts that tests read
NEEDED: dict[str, dict[str, Any]] = {
    "fusion": {"fused": [{"size": 4}, {"size": 8, "activation": "relu"}]},
    "trainable_tokens": {"tokens": [101, 102, 1037, 2460, 3793]},
    "stack": {"methods": [{"name": "ln_tuning"}, {"name": "lora", "r": 4}]},
}
#: what can't be trained at all, each with a reason
UNAVAILABLE = [name for name in methods if methods.get(name).why_not is not None]
AVAILABLE = [name for name in methods if methods.get(name).why_not is None]
OTHERS = [name for name in AVAILABLE if name not in CORE]


def choice_of(name: str, **options: Any) -> dict[str, Any]:
    """A method with the options that it can't do without."""
    return {"name": name, **NEEDED.get(name, {}), **options}


def daily(often: Iterable[str], names: Iterable[str] = AVAILABLE) -> list[Any]:
    """Parameters of a test: the others are slow."""
    every_day = set(often)
    return [name if name in every_day else pytest.param(name, marks=pytest.mark.slow) for name in names]
