"""Rows for every built-in task, of different lengths; a new task is forgotten by no test that goes over them."""

from __future__ import annotations

from typing import Any

_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "apples", "pears"]


def _text(number: int) -> str:
    return " ".join(_WORDS[(number * 5 + place) % len(_WORDS)] for place in range(2 + number % 7))


def _tags(number: int) -> list[str]:
    return [("O", "B-PER", "I-PER", "B-LOC")[(number + place) % 4] for place in range(2 + number % 7)]


#: name -> options and rows
SAMPLES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "sequence-classification": (
        {"head": "mean"},
        [{"text": _text(n), "label": f"l{n % 3}"} for n in range(24)],
    ),
    "causal-lm": (
        {"max_new_tokens": 3},
        [{"prompt": _text(n), "completion": _WORDS[n % 12]} for n in range(24)],
    ),
    "token-classification": (
        {},
        [{"words": _text(n).split(), "tags": _tags(n)} for n in range(24)],
    ),
    "multi-label-classification": (
        {"head": "mean"},
        [{"text": _text(n), "labels": [f"l{k}" for k in range(3) if (n + k) % (k + 2) == 0]} for n in range(24)],
    ),
    "regression": (
        {"head": "mean"},
        [{"text": _text(n), "number": float(n % 7) - 2.5} for n in range(24)],
    ),
}
