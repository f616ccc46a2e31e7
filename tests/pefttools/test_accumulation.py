"""A step's rows are fixed first, then shared out: parts and processes change no weight."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import pefttools
from pefttools.training.sampler import LengthWindowSampler, largest_batch
from tests.pefttools.test_processes import launched


@given(st.lists(st.integers(1, 200), min_size=1, max_size=200), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_the_largest_pass_is_one_of_those_that_are_made(lengths: list[int], rows: int, parts: int, count: int) -> None:
    batch = rows * parts * count
    examples = [{"input_ids": [0] * length, "length": length} for length in lengths]
    order = list(LengthWindowSampler(lengths, batch, 0))
    passes = [[lengths[i] for i in order[s : s + rows]] for s in range(0, len(order), rows)]
    found = [len(one["input_ids"]) for one in largest_batch(examples, lengths, batch, parts * count)]
    assert len(found) * max(found) == max(len(one) * max(one) for one in passes)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prompts and answers of very unlike lengths."""
    generator = random.Random(0)
    words = ["card", "rate", "transfer", "where", "is", "my", "money", "please"]
    path = tmp_path_factory.mktemp("texts") / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "completion"])
        for _ in range(60):
            asked, said = (" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(2))
            writer.writerow([asked, said])
    return str(path)


def _recipe(base: str, texts: str, output: Path, parts: int, packing: bool) -> dict[str, Any]:
    return {
        "base": base,
        "method": {"name": "lora", "r": 4, "dropout": 0.0},
        "task": {"name": "causal-lm", "packing": packing},
        "data": {"train": texts, "validation": 0.2},
        "training": {
            "epochs": 2, "batch_size": 8, "gradient_accumulation": parts, "precision": "float32", "learning_rate": 1e-2,
        },
        "storage": "float32",
        "output": str(output),
    }  # fmt: skip


def _weights(folder: Path) -> torch.Tensor:
    state = load_file(folder / "adapter_model.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("packing", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["packed", "padded"])
def test_parts_change_no_weight(packing: bool, tiny_llama: str, texts: str, tmp_path: Path) -> None:
    found = {}
    for parts in (1, 2, 8):
        stored = pefttools.train(_recipe(tiny_llama, texts, tmp_path / str(parts), parts, packing))
        assert stored is not None and stored.manifest.training["steps"] == 12
        found[parts] = _weights(tmp_path / str(parts))
    start = _weights_of_a_start(tiny_llama)
    assert (found[1] - start).abs().max() > 1e-2, "something was learned"
    for parts in (2, 8):
        assert (found[parts] - found[1]).abs().max() < 1e-4


def _weights_of_a_start(base: str) -> torch.Tensor:
    model = pefttools.wrap(base, {"name": "lora", "r": 4}, task="causal-lm", precision="float32")
    state = {name: one for name, one in model.trainable_state().items() if "lora_" in name}
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.slow
def test_parts_and_processes_change_no_weight(tiny_llama: str, texts: str, tmp_path: Path) -> None:
    pefttools.train(_recipe(tiny_llama, texts, tmp_path / "one", 1, True))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = launched(torchrun, _recipe(tiny_llama, texts, tmp_path / "shared", 2, True), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (_weights(tmp_path / "shared") - _weights(tmp_path / "one")).abs().max() < 1e-3
