"""Several processes that train together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import pefttools
from pefttools.artifact.manifest import read_manifest, verify_files
from pefttools.compute import processes
from pefttools.errors import TrainingError
from tests.conftest import MINILM

PEFTTOOLS = str(Path(sys.executable).with_name("pefttools"))


def _recipe(data: dict[str, str], output: Path) -> dict[str, Any]:
    return {
        "base": MINILM,
        "method": {"name": "lora", "r": 4},
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": dict(data),
        "training": {"epochs": 2, "batch_size": 16},
        "output": str(output),
    }


def launched(program: list[str], recipe: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "MASTER_PORT")}
    return subprocess.run(
        [sys.executable, "-m", *program, PEFTTOOLS, "train", str(path)],
        capture_output=True, text=True, check=False, env={**clean, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_train_as_one_does(tmp_path: Path, intents: dict[str, str]) -> None:
    """gloo, the same global batch: the same accuracy, written by process 0 alone."""
    one = pefttools.train(_recipe(intents, tmp_path / "one"))
    assert one is not None and one.test is not None and one.manifest.training["processes"] == 1
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = launched(torchrun, _recipe(intents, tmp_path / "two"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(tmp_path / "two")], "one process, and only one, says where the artifact is"
    assert "training on cpu, 2 processes" in done.stderr
    manifest = read_manifest(tmp_path / "two")
    verify_files(tmp_path / "two", manifest)
    assert manifest.training["processes"] == 2
    assert manifest.training["steps"] == one.manifest.training["steps"]
    # 80 rows: one row is 1.25 points, the standard error about 3 points
    assert abs(manifest.metrics["test"]["accuracy"] - one.test.metrics["accuracy"]) < 0.06
    # The same batches and nearly the same steps: dropout alone differs.
    first, second = (
        load_file(tmp_path / name / "head.safetensors")["linear.weight"].float() for name in ("one", "two")
    )
    assert not torch.equal(first, second), "dropout of two processes can't be that of one"
    similarity = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    assert similarity > 0.95


def test_a_launch_that_starts_one_process_where_several_were_asked_for_is_refused(
    tmp_path: Path, intents: dict[str, str]
) -> None:
    accelerate = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
    done = launched(accelerate, _recipe(intents, tmp_path / "a"), tmp_path)
    assert done.returncode != 0 and "torchrun --nproc_per_node 2" in done.stderr, done.stderr[-3000:]
    assert not (tmp_path / "a").exists()


def test_one_process_by_accelerate_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    processes.check_launch()


def test_processes_that_end_apart_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gathering alone is replaced: two real processes end alike in the test above."""
    state = {"a": torch.ones(3), "scalar": torch.tensor(1.0)}
    gathered: list[str] = []

    def gather(found: list[str], digest: str) -> None:
        gathered.append(digest)
        found[:] = [gathered[0], digest]

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    processes.check_alike(state)
    processes.check_alike({name: tensor.clone() for name, tensor in state.items()})
    with pytest.raises(TrainingError, match="different weights"):
        processes.check_alike({**state, "a": torch.tensor([1.0, 1.0, 1.0000001])})


_GRADIENTS = """
import json, os, sys
import pefttools
from pefttools.training import trainer

def tell(self, args, state, control, **given):
    if os.environ.get("RANK", "0") == "0":
        trained = self.trainer.tuned.trained()
        print(json.dumps({name: float(one.grad.norm()) for name, one in trained.items() if one.grad is not None}))

trainer._Advance.on_optimizer_step = tell
pefttools.train(json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_term_of_two_processes_is_that_of_one(tiny_bert: str, intents: dict[str, str], tmp_path: Path) -> None:
    """A term that a process divides by its parts is not added up over the processes."""
    script = tmp_path / "gradients.py"
    script.write_text(_GRADIENTS)
    found = []
    for name, program in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"])):
        recipe = {
            **_recipe(intents, tmp_path / name), "base": tiny_bert, "method": {"name": "lora", "dropout": 0.0},
            "objective": {"name": "l2-sp", "beta": 500.0},
            "training": {"max_steps": 1, "batch_size": 16, "precision": "float32", "max_gradient_norm": 1e9},
        }  # fmt: skip
        clean = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "RANK", "MASTER_PORT")}
        done = subprocess.run(
            [sys.executable, *program, str(script), json.dumps(recipe)],
            capture_output=True, text=True, check=False, env={**clean, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    head = [one["head.linear.weight"] for one in found]
    assert head[1] == pytest.approx(head[0], rel=0.1), "twice as much where both processes count"
