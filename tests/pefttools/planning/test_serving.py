"""What a pool takes, against the same pool with real adapters, as the CPU's allocator has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.bases.skeleton import skeleton
from pefttools.errors import ConfigError
from pefttools.methods import methods
from pefttools.planning.counter import weights_of
from pefttools.planning.device import CPU, GPU
from pefttools.planning.plan import Planned, Shape
from pefttools.pool.planned import plan_serving

from ...allocator import peak_of
from ...methods import AVAILABLE, choice_of, daily

RESIDENTS, ROWS = 5, 8
ENCODER: dict[str, Any] = {"name": "sequence-classification", "head": "mean"}
OWN_HEAD: dict[str, Any] = {"name": "sequence-classification", "head": "model"}
DECODER: dict[str, Any] = {"name": "causal-lm", "max_new_tokens": 12}


def _served() -> list[str]:
    return [name for name in AVAILABLE if methods.get(name).capabilities.deltas]


def _pool(base: str, method: str, task: dict[str, Any], folder: Path) -> tuple[pefttools.AdapterPool, list[str]]:
    labels = [] if task is DECODER else ["0", "1"]
    model = pefttools.wrap(base, choice_of(method), task=task, labels=labels)
    with torch.no_grad():  # of changes that are zero there would be no weights
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 1e-3)
    pefttools.save(model, folder / "adapter")
    pool = pefttools.AdapterPool(base, max_resident=RESIDENTS)
    names = [f"a{number}" for number in range(RESIDENTS)]
    for name in names:
        pool.load(name, folder / "adapter")
    return pool, names


def _standing(pool: pefttools.AdapterPool, batch: dict[str, torch.Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in (*weights_of(pool.served.model), *batch.values())}  # fmt: skip
    return sum(storages.values()) + pool.bytes()


@pytest.mark.parametrize("task", [ENCODER, OWN_HEAD], ids=["mean", "own"])
@pytest.mark.parametrize(
    "method", daily(("lora", "prefix", "bottleneck", "head"), [name for name in _served() if name != "untuned"])
)
def test_answering(method: str, task: dict[str, Any], tiny_bert: str, tmp_path: Path) -> None:
    if method == "trainable_tokens" and task is OWN_HEAD:
        return  # PEFT can't train the model's own head beside it
    if methods.get(method).needs_weights:
        with pytest.raises(ConfigError, match="can't be planned"):
            plan_serving(Planned(skeleton(tiny_bert), task, method, "float32", 2, CPU), Shape(length=40), RESIDENTS)
        return
    pool, names = _pool(tiny_bert, method, task, tmp_path)
    ids = torch.randint(5, 400, (ROWS, 40))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    chosen = [names[row % RESIDENTS] for row in range(ROWS)]
    pool(batch, chosen)
    peak = peak_of(lambda: pool(batch, chosen))
    planned = Planned(skeleton(tiny_bert), task, choice_of(method), "float32", 2, CPU)
    found = plan_serving(planned, Shape(length=40, eval_batch_size=ROWS, precision="float32"), RESIDENTS)
    assert found.adapters_bytes == pool.bytes()
    # What runs row by row: kernels take other temporary tensors than are traced.
    near = {"fourierft": 0.15, "shira": 0.15, "supertuning": 0.15, "vera": 0.05, "pvera": 0.05}.get(method, 0.02)
    assert found.answer_bytes == pytest.approx(_standing(pool, batch) + peak, rel=near)


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_generating(method: str, tiny_llama: str, tmp_path: Path) -> None:
    pool, names = _pool(tiny_llama, method, DECODER, tmp_path)
    pool.served.model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    ids = torch.randint(5, 400, (ROWS, 40))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    chosen = [names[row % RESIDENTS] for row in range(ROWS)]
    peak = peak_of(lambda: pool.generate_tokens(batch, chosen, max_new_tokens=12))
    planned = Planned(skeleton(tiny_llama), DECODER, method, "float32", 2, CPU)
    found = plan_serving(planned, Shape(length=40, eval_batch_size=ROWS, precision="float32"), RESIDENTS)
    assert found.adapters_bytes == pool.bytes()
    assert found.generation_bytes == pytest.approx(_standing(pool, batch) + peak, rel=0.03)
    assert found.answer_bytes > found.weights_bytes + found.adapters_bytes


def test_more_residents_take_more(tiny_llama: str) -> None:
    planned = Planned(skeleton(tiny_llama), DECODER, "lora", "nf4", 2, GPU)
    shape = Shape(length=16, eval_batch_size=4)
    few, many = (plan_serving(planned, shape, residents) for residents in (4, 40))
    assert many.adapters_bytes > 4 * few.adapters_bytes
    assert many.weights_bytes == few.weights_bytes < many.total_bytes
    assert many.answer_bytes - few.answer_bytes == pytest.approx(many.adapters_bytes - few.adapters_bytes, rel=0.05)


def test_bad_questions(tiny_bert: str, tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match="residents must be at least 1"):
        plan_serving(Planned(skeleton(tiny_bert), ENCODER, "lora", "float32", 2, CPU), Shape(), 0)
    alone = next(name for name in AVAILABLE if not methods.get(name).capabilities.deltas)
    with pytest.raises(ConfigError, match="has no delta form"):
        plan_serving(Planned(skeleton(tiny_bert), ENCODER, alone, "float32", 2, CPU), Shape(), 2)
    with pytest.raises(ConfigError, match="is an encoder"):
        plan_serving(Planned(skeleton(tiny_bert), DECODER, "lora", "float32", 2, CPU), Shape(length=8), 2)


def _heard(base: str, task: dict[str, Any], method: str, folder: Path) -> tuple[Any, Any, Any, list[str]]:
    """A pool of pictures or sounds, a batch for it, and the plan of both."""
    labels = [] if task["name"] == "speech-recognition" else ["0", "1"]
    model = pefttools.wrap(base, method, task=task, labels=labels)
    pefttools.save(model, folder / "adapter")
    pool = pefttools.AdapterPool(base, max_resident=RESIDENTS)
    names = [f"a{number}" for number in range(RESIDENTS)]
    for name in names:
        pool.load(name, folder / "adapter")
    batch = model.spec.task.planned_batch(model, [40] * ROWS)
    batch = {name: torch.rand_like(one) if one.is_floating_point() else one for name, one in batch.items()}
    planned = Planned(skeleton(base), task, method, "float32", 2, CPU)
    found = plan_serving(planned, Shape(length=40, eval_batch_size=ROWS, precision="float32"), RESIDENTS)
    return pool, {name: one for name, one in batch.items() if name in model.spec.task.reads}, found, names


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ({"name": "image-classification", "head": "mean"}, "lora"),
        ({"name": "image-classification", "head": "model"}, "bitfit"),
        ({"name": "audio-classification", "head": "mean", "max_seconds": 0.4}, "bottleneck"),
        ({"name": "audio-classification", "head": "model", "max_seconds": 0.4}, "lora"),
    ],
)
def test_pictures_and_sounds(
    task: dict[str, Any], method: str, tiny_vit: str, tiny_whisper: str, tmp_path: Path
) -> None:
    base = tiny_vit if task["name"].startswith("image") else tiny_whisper
    pool, batch, found, names = _heard(base, task, method, tmp_path)
    chosen = [names[row % RESIDENTS] for row in range(ROWS)]
    pool(batch, chosen)
    peak = peak_of(lambda: pool(batch, chosen))
    assert found.adapters_bytes == pool.bytes()
    assert found.answer_bytes == pytest.approx(_standing(pool, batch) + peak, rel=0.02)
    assert found.generation_bytes == 0


def test_transcripts(tiny_whisper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"name": "speech-recognition", "max_seconds": 0.4, "max_new_tokens": 12, "max_target_length": 16}
    pool, batch, found, names = _heard(tiny_whisper, task, "lora", tmp_path)
    monkeypatch.setattr(pool._tensors, "padded", lambda examples, rows: batch)  # decoding sounds is no part of it
    examples: list[Any] = [{}] * ROWS
    chosen = [names[row % RESIDENTS] for row in range(ROWS)]
    pool.write_tokens(examples, chosen, max_new_tokens=12)
    peak = peak_of(lambda: pool.write_tokens(examples, chosen, max_new_tokens=12))
    assert found.adapters_bytes == pool.bytes()
    assert found.generation_bytes == pytest.approx(_standing(pool, batch) + peak, rel=0.03)
    assert found.answer_bytes == 0
