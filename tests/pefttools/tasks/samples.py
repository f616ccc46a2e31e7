"""Rows for every built-in task, of different lengths; a new task is forgotten by no test that goes over them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pefttools.tasks import tasks

_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "apples", "pears"]


def _text(number: int) -> str:
    return " ".join(_WORDS[(number * 5 + place) % len(_WORDS)] for place in range(2 + number % 7))


def _tags(number: int) -> list[str]:
    return [("O", "B-PER", "I-PER", "B-LOC")[(number + place) % 4] for place in range(2 + number % 7)]


def _context(number: int) -> str:
    """Up to 45 words: two or three windows."""
    return " ".join(_WORDS[(number * 5 + place) % len(_WORDS)] for place in range(3 + 6 * (number % 8)))


def _answer(number: int, context: str) -> dict[str, list[Any]]:
    """Two words of the context; every fourth question has no answer."""
    words = context.split()
    at = number * 3 % (len(words) - 1)
    start = len(" ".join(words[:at])) + (at > 0)
    whole: dict[str, list[Any]] = {"text": [" ".join(words[at : at + 2])], "answer_start": [start]}
    return {"text": [], "answer_start": []} if number % 4 == 3 else whole


@functools.cache
def _pictures() -> Path:
    """A folder of 24 small pictures, of three kinds that differ in colour."""
    folder = Path(tempfile.mkdtemp(prefix="pefttools-pictures-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(24):
        noise = np.random.default_rng(number).integers(0, 60, (9 + number % 3, 11, 3), dtype=np.uint8)
        noise[..., number % 3] += 150
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


@functools.cache
def _sounds() -> Path:
    """A folder of 24 short sounds, of three pitches, of different lengths."""
    import soundfile

    folder = Path(tempfile.mkdtemp(prefix="pefttools-sounds-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(24):
        count = 1600 + 400 * (number % 5)
        noise = np.random.default_rng(number).normal(0, 0.02, count)
        tone = np.sin(np.arange(count) * (0.1 + 0.2 * (number % 3)))
        soundfile.write(folder / f"{number}.flac", 0.5 * tone + noise, 16_000)
    return folder


def base_of(name: str, request: pytest.FixtureRequest) -> str:
    """A tiny base for a task."""
    task = tasks.get(name)
    others = {"image": "tiny_vit", "audio": "tiny_whisper", "image-text": "tiny_clip"}
    continues = task.generates or name == "prompted-classification"
    written = "tiny_t5" if task.encoder_decoder else "tiny_llama" if continues else "tiny_bert"
    fixture = others.get(task.modality) or written
    found: str = request.getfixturevalue(fixture)
    return found


#: name -> options and rows
SAMPLES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "sequence-classification": (
        {"head": "mean"},
        [{"text": _text(n), "label": f"l{n % 3}"} for n in range(24)],
    ),
    "prompted-classification": (
        {
            "pattern": "{text} it is about {mask}",
            "words": {"l0": "apples", "l1": "nine"},
            "labels": ["l0", "l1", "one"],
        },
        [{"text": _text(n), "label": ("l0", "l1", "one")[n % 3]} for n in range(24)],
    ),
    "causal-lm": (
        {"max_new_tokens": 3},
        [{"prompt": _text(n), "completion": _WORDS[n % 12]} for n in range(24)],
    ),
    "preferences": (
        {"max_new_tokens": 3},
        [
            {"prompt": _text(n), "chosen": f"{_WORDS[n % 12]} {_text(n % 3)}", "rejected": _text(n + 1)}
            for n in range(24)
        ],
    ),
    "seq2seq-lm": (
        {"max_new_tokens": 3, "max_target_length": 64},
        [{"text": _text(n), "target": _text(3 * n + 1)} for n in range(24)],
    ),
    "speech-recognition": (
        {"max_seconds": 1.0, "max_target_length": 32, "max_new_tokens": 3},
        [{"audio": str(_sounds() / f"{n}.flac"), "text": _text(n)} for n in range(24)],
    ),
    "masked-lm": ({}, [{"text": f"{_text(n)} {_text(n + 3)}"} for n in range(24)]),
    "token-classification": (
        {},
        [{"words": _text(n).split(), "tags": _tags(n)} for n in range(24)],
    ),
    "multi-label-classification": (
        {"head": "mean"},
        [{"text": _text(n), "labels": [f"l{k}" for k in range(3) if (n + k) % (k + 2) == 0]} for n in range(24)],
    ),
    "image-classification": (
        {"head": "mean"},
        [{"image": str(_pictures() / f"{n}.png"), "label": f"l{n % 3}"} for n in range(24)],
    ),
    "zero-shot-image-classification": (
        {"prompt": "a picture in {label}"},
        [{"image": str(_pictures() / f"{n}.png"), "label": f"l{n % 3}"} for n in range(24)],
    ),
    "image-text-retrieval": (
        {"max_length": 16},
        [{"image": str(_pictures() / f"{n}.png"), "text": _text(n)} for n in range(24)],
    ),
    "audio-classification": (
        {"head": "mean", "max_seconds": 0.2},
        [{"audio": str(_sounds() / f"{n}.flac"), "label": f"l{n % 3}"} for n in range(24)],
    ),
    "multiple-choice": (
        {"head": "mean"},
        [{"text": _text(n), "choices": [_text(n + k) for k in range(1, 3 + n % 3)], "label": n % 2} for n in range(24)],
    ),
    "question-answering": (
        {"max_length": 24, "stride": 4},
        [
            {"question": f"where is {_WORDS[n % 12]}", "context": _context(n), "answers": _answer(n, _context(n))}
            for n in range(24)
        ],
    ),
    "regression": (
        {"head": "mean"},
        [{"text": _text(n), "number": float(n % 7) - 2.5} for n in range(24)],
    ),
    "sentence-embedding": (
        {"projection": True},
        [
            {"text": _text(n), "positive": f"{_text(n + 1)} pears", "negative": [_text(n + 3)] * (n % 3)}
            for n in range(24)
        ],
    ),
}
