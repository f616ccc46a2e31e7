"""Training: resume, divergence, two processes, kill -9, trackers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pefttools
from pefttools.artifact.manifest import read_manifest, verify_files
from pefttools.errors import DivergedError
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.checkpoints import latest_checkpoint
from pefttools.training.fit import fit
from pefttools.training.prepare import prepare
from pefttools.training.run import train
from tests.conftest import MINILM


def _recipe(base: str, data: dict[str, str], output: Path, **training: Any) -> dict[str, Any]:
    return {
        "base": base,
        "method": {"name": "lora", "r": 4},
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": dict(data),
        "training": {"epochs": 2, "batch_size": 16, **training},
        "output": str(output),
    }


def test_it_learns(tmp_path: Path, intents: dict[str, str]) -> None:
    stored = pefttools.train(_recipe(MINILM, intents, tmp_path / "a", epochs=3))
    assert stored is not None and stored.test is not None
    assert stored.test.metrics["accuracy"] > 0.9
    assert stored.manifest.training["predictions_changed_by_reload"] == 0
    assert stored.manifest.metrics["test"] == stored.test.metrics
    again = pefttools.evaluate(tmp_path / "a", intents["test"])
    assert again.predictions == stored.test.predictions
    size = (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    assert size < 0.02 * stored.manifest.base.size


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_training_ends_where_unbroken_training_ends(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], accumulation: int
) -> None:
    settings = {
        "precision": "float32",
        "gradient_accumulation": accumulation,
        "schedule": "constant_with_warmup",
    }
    whole = Recipe.model_validate(_recipe(tiny_bert, intents, tmp_path / "a", epochs=2, **settings))
    fitted = fit(prepare(whole), SilentReporter(), tmp_path / "whole")
    expected = fitted.model.trainable_state()

    class Stop(Exception):
        pass

    class Reporter(SilentReporter):
        def step(self, name: str, unit: str) -> Any:
            import contextlib

            @contextlib.contextmanager
            def block() -> Any:
                def advance(done: int, total: int, note: str = "") -> None:
                    if name.startswith("training") and done == 15:
                        raise Stop

                yield advance

            return block()

    with pytest.raises(Stop):
        fit(prepare(whole), Reporter(), tmp_path / "broken")
    checkpoint = latest_checkpoint(tmp_path / "broken")
    assert checkpoint is not None and checkpoint.name == "checkpoint-10"
    resumed = fit(prepare(whole), SilentReporter(), tmp_path / "broken", resume=True)
    assert resumed.steps == fitted.steps == 20
    for name, tensor in resumed.model.trainable_state().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    for step, whole in ((5, True), (10, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "complete").touch()
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-5"


def test_divergence_is_told_with_its_step(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    recipe = Recipe.model_validate(
        _recipe(tiny_bert, intents, tmp_path / "a", learning_rate=1e30, head_learning_rate=1e30)
    )
    with pytest.raises(DivergedError, match="at step") as caught:
        train(recipe, SilentReporter())
    assert caught.value.step >= 1
    assert not (tmp_path / "a").exists()


def test_the_best_state_is_kept(tmp_path: Path, intents: dict[str, str]) -> None:
    recipe = Recipe.model_validate(
        _recipe(MINILM, intents, tmp_path / "a", epochs=2, evaluations=6, head_learning_rate=0.5)
    )
    fitted = fit(prepare(recipe), SilentReporter(), tmp_path / "work")
    scores = {int(e["step"]): e["eval_accuracy"] for e in fitted.history if "eval_accuracy" in e}
    assert fitted.validation.metrics["accuracy"] == pytest.approx(max(scores.values()))
    assert scores[fitted.best_step] == max(scores.values())


def test_tensorboard(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", epochs=1, report_to=["tensorboard"]))
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_kill_9_leaves_no_half_artifact_and_resume_ends_well(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    generator = random.Random(1)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(_recipe(tiny_bert, intents, tmp_path / "a", epochs=6)))
    program = [str(Path(sys.executable).with_name("pefttools")), "train", str(path), "--resume"]
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=generator.uniform(5, 12))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        if (tmp_path / "a").exists():
            verify_files(tmp_path / "a", read_manifest(tmp_path / "a"))
        time.sleep(0.1)
    assert killed
    subprocess.run(program, check=True, capture_output=True)
    manifest = read_manifest(tmp_path / "a")
    verify_files(tmp_path / "a", manifest)
    assert manifest.training["steps"] == 60


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_a_models_own_head_has_the_heads_learning_rate(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], method: str
) -> None:
    recipe = _recipe(
        tiny_bert, intents, tmp_path / "a", max_steps=1, head_learning_rate=0.25, schedule="constant_with_warmup"
    )
    recipe |= {"method": method, "task": {"name": "sequence-classification", "head": "model"}}
    fitted = fit(prepare(Recipe.model_validate(recipe)), SilentReporter(), tmp_path / "work")
    optimizer = torch.load(tmp_path / "work" / "checkpoint-1" / "optimizer.pt", weights_only=True)
    groups = optimizer["param_groups"]
    assert {group["initial_lr"] for group in groups} == {0.25, fitted.learning_rate}
    # weight and bias of the classifier; the pooler came with the base and is no part of the head
    assert sum(len(group["params"]) for group in groups if group["initial_lr"] == 0.25) == 2
