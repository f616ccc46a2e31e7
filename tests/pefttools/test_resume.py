"""Nothing is lost: what stands at the output, interrupted runs, checkpoints and what they belong to."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pefttools
from pefttools.artifact.manifest import read_manifest, verify_files
from pefttools.errors import ArtifactError, ConfigError
from pefttools.progress import Advance, SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.checkpoints import any_checkpoint, newest_whole
from pefttools.training.fit import fit
from pefttools.training.prepare import prepare

PEFTTOOLS = str(Path(sys.executable).with_name("pefttools"))


class Told(SilentReporter):
    """Keeps what it is told; stops the training at a step, as a power cut would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.events: list[str] = []

    def event(self, text: str) -> None:
        self.events.append(text)

    @contextlib.contextmanager
    def step(self, name: str, unit: str) -> Iterator[Advance]:
        def advance(done: int, total: int, note: str = "") -> None:
            if name.startswith("training") and done == self.stop_at:
                raise Stop

        yield advance


class Stop(Exception):
    """The power cut."""


def _recipe(base: str, data: dict[str, Any], output: Path, **training: Any) -> dict[str, Any]:
    return {
        "base": base,
        "method": {"name": "lora", "r": 4},
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": dict(data),
        "training": {"epochs": 2, "batch_size": 16, "precision": "float32", **training},
        "output": str(output),
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str, intents: dict[str, str]) -> Path:
    """Folder of a training of 20 steps that was cut off at step 15 and has checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.raises(Stop):
        pefttools.train(_recipe(tiny_bert, intents, folder / "a", evaluations=4), reporter=Told(stop_at=15))
    return folder


@pytest.fixture
def cut(tmp_path: Path, broken: Path) -> Path:
    """A copy of that to work on: the output."""
    shutil.copytree(broken / "a.training", tmp_path / "a.training")
    return tmp_path / "a"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_training_ends_where_unbroken_training_ends(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], accumulation: int
) -> None:
    settings = {"gradient_accumulation": accumulation, "schedule": "constant_with_warmup"}
    whole = Recipe.model_validate(_recipe(tiny_bert, intents, tmp_path / "a", **settings))
    fitted = fit(prepare(whole), SilentReporter(), tmp_path / "whole")
    expected = fitted.model.trainable_state()
    with pytest.raises(Stop):
        fit(prepare(whole), Told(stop_at=15), tmp_path / "broken")
    checkpoint = newest_whole(tmp_path / "broken", SilentReporter())
    assert checkpoint is not None and checkpoint.step == 10
    resumed = fit(prepare(whole), SilentReporter(), tmp_path / "broken", checkpoint=checkpoint)
    assert resumed.steps == fitted.steps == 20
    for name, tensor in resumed.model.trainable_state().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)


def test_a_checkpoint_that_was_not_finished_does_not_count(cut: Path) -> None:
    work = cut.with_name("a.training")
    (work / "checkpoint-10" / "complete").unlink()
    found = newest_whole(work, SilentReporter())
    assert found is not None and found.step == 5


def test_an_interrupted_training_is_not_removed_unasked(cut: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    recipe = _recipe(tiny_bert, intents, cut, evaluations=4)
    work = cut.with_name("a.training")
    with pytest.raises(ConfigError, match="contains an interrupted run, up to step 10") as caught:
        pefttools.train(recipe)
    assert caught.value.hint is not None and "--resume" in caught.value.hint and "--overwrite" in caught.value.hint
    assert caught.value.exit_code == 2
    assert any_checkpoint(work) == work / "checkpoint-10"
    with pytest.raises(ConfigError, match="mutually exclusive"):
        pefttools.train(recipe, resume=True, overwrite=True)
    told = Told()
    stored = pefttools.train(recipe, resume=True, reporter=told)
    assert stored is not None and stored.manifest.training["steps"] == 20
    assert f"continuing from {work / 'checkpoint-10'}" in told.events
    assert not work.exists()


def test_an_artifact_is_not_replaced_unasked(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", max_steps=2)
    pefttools.train(recipe)
    before = read_manifest(tmp_path / "a")
    with pytest.raises(ConfigError, match="contains an artifact \\(lora for sequence-classification, 20") as caught:
        pefttools.train({**recipe, "seed": 1})
    assert caught.value.hint is not None and "--overwrite" in caught.value.hint
    assert read_manifest(tmp_path / "a") == before
    with pytest.raises(ConfigError, match="nothing to resume") as caught:
        pefttools.train(recipe, resume=True)
    assert caught.value.hint is not None and "The training is complete" in caught.value.hint
    pefttools.train({**recipe, "seed": 1}, overwrite=True)
    assert read_manifest(tmp_path / "a").training["seed"] == 1


def test_nothing_to_resume(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="nothing to resume: no checkpoint in") as caught:
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a"), resume=True)
    assert caught.value.hint == "Run without --resume (resume=True) to start."


def test_files_of_trackers_are_kept_and_no_interrupted_run_is_seen_in_them(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", max_steps=2, report_to=["tensorboard"])
    pefttools.train(recipe)
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert any_checkpoint(tmp_path / "a.training") is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": {"name": "lora", "r": 4, "alpha": 99.0}}, "method.alpha was .* and is now 99.0"),
        ({"method": {"name": "ia3"}}, "method.name was 'lora' and is now 'ia3'"),
        ({"seed": 3}, "seed was 0 and is now 3"),
        ({"training": {"epochs": 3}}, "training.epochs was 2.0 and is now 3.0"),
        ({"task": {"name": "sequence-classification", "head": "cls"}}, "task.head was 'mean' and is now 'cls'"),
        ({"data": {"limit": {"train": 100}}}, "the rows of train have changed"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_what_changed(
    cut: Path, tiny_bert: str, intents: dict[str, str], change: dict[str, Any], named: str
) -> None:
    recipe = _recipe(tiny_bert, intents, cut, evaluations=4)
    for name, value in change.items():
        recipe[name] = {**recipe[name], **value} if name in ("training", "data") else value
    with pytest.raises(ConfigError, match=named):
        pefttools.train(recipe, resume=True)


def test_other_labels_are_refused(cut: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    renamed = {}
    for split, source in intents.items():
        renamed[split] = str(cut.with_name(f"{split}.csv"))
        Path(renamed[split]).write_text(Path(source).read_text().replace("pin_blocked", "blocked"))
    with pytest.raises(ConfigError, match=r"the labels have changed; the rows of train have changed"):
        pefttools.train(_recipe(tiny_bert, renamed, cut, evaluations=4), resume=True)


def test_another_number_of_processes_is_refused(
    cut: Path, tiny_bert: str, intents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="it was trained with 1 processes, now there are 2"):
        pefttools.train(_recipe(tiny_bert, intents, cut, evaluations=4), resume=True)


def test_what_decides_nothing_may_change(cut: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    moved = cut.with_name("moved.csv")
    shutil.copy(intents["train"], moved)
    recipe = _recipe(tiny_bert, {**intents, "train": str(moved)}, cut, evaluations=4, eval_batch_size=8)
    stored = pefttools.train({**recipe, "storage": "float32"}, resume=True)
    assert stored is not None and stored.manifest.training["steps"] == 20


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("optimizer.pt", "cut"),
        ("trainable.safetensors", "flip"),
        ("best.safetensors", "flip"),
        ("trainer_state.json", "cut"),
        ("complete", "cut"),
        ("scheduler.pt", "remove"),
        ("rng_state.pth", "remove"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_whole_one_beside_it(cut: Path, file: str, damage: str) -> None:
    work = cut.with_name("a.training")
    path = work / "checkpoint-10" / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-9] ^= 1
        path.write_bytes(content)
    told = Told()
    found = newest_whole(work, told)
    assert found is not None and found.step == 5
    (said,) = told.events
    assert "checkpoint-10 is damaged" in said and file in said and "going back to checkpoint-5" in said


def test_no_whole_checkpoint_is_an_error(cut: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    for path in cut.with_name("a.training").glob("checkpoint-*/optimizer.pt"):
        path.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"all checkpoints are damaged: .*checkpoint-10.*checkpoint-5"):
        pefttools.train(_recipe(tiny_bert, intents, cut, evaluations=4), resume=True)


def test_a_fallback_ends_where_unbroken_training_ends(cut: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    recipe = _recipe(tiny_bert, intents, cut, evaluations=4)
    whole = pefttools.train({**recipe, "output": str(cut.with_name("whole"))})
    (cut.with_name("a.training") / "checkpoint-10" / "optimizer.pt").write_bytes(b"")
    stored = pefttools.train(recipe, resume=True)
    assert whole is not None and stored is not None
    assert stored.manifest.files["adapter_model.safetensors"] == whole.manifest.files["adapter_model.safetensors"]


def test_a_checkpoint_of_an_older_version_goes_on_and_says_what_it_cannot_know(
    cut: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    for marker in cut.with_name("a.training").glob("checkpoint-*/complete"):
        marker.write_bytes(b"")
    told = Told()
    stored = pefttools.train(_recipe(tiny_bert, intents, cut, evaluations=4), resume=True, reporter=told)
    assert stored is not None and stored.manifest.training["steps"] == 20
    assert any("has no record of its recipe and data" in event for event in told.events)


def test_an_option_that_is_newer_than_the_checkpoint_is_no_change(
    cut: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    """It did then what its default does; with another value it is a change."""
    for marker in cut.with_name("a.training").glob("checkpoint-*/complete"):
        content = json.loads(marker.read_bytes())
        del content["made_from"]["recipe"]["task.label_smoothing"], content["made_from"]["recipe"]["method.rslora"]
        marker.write_text(json.dumps(content))
    recipe = _recipe(tiny_bert, intents, cut, evaluations=4)
    with pytest.raises(ConfigError, match=r"task\.label_smoothing was None and is now 0\.1"):
        pefttools.train(recipe | {"task": {**recipe["task"], "label_smoothing": 0.1}}, resume=True)
    stored = pefttools.train(recipe, resume=True)
    assert stored is not None and stored.manifest.training["steps"] == 20


def test_parts_that_were_settled_before_are_kept(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with less free memory than before must not change the batches of a training that goes on."""
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", gradient_accumulation="auto")
    with pytest.raises(Stop):
        pefttools.train(recipe, reporter=Told(stop_at=15))
    marker = json.loads((tmp_path / "a.training" / "checkpoint-10" / "complete").read_bytes())
    assert marker["made_from"]["recipe"]["training.gradient_accumulation"] == 1
    monkeypatch.setattr("pefttools.training.microbatches.fewest", lambda rows, fits: 4)
    stored = pefttools.train(recipe, resume=True)
    assert stored is not None and stored.manifest.training["settings"]["gradient_accumulation"] == 1


def test_ctrl_c_names_resume(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(_recipe(tiny_bert, intents, tmp_path / "a", epochs=500, evaluations=500)))
    process = subprocess.Popen(
        [PEFTTOOLS, "train", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # As in a terminal: whatever runs in the background of a shell is deaf to Ctrl-C, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while any_checkpoint(tmp_path / "a.training") is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "The same command with --resume continues from" in said and "Traceback" not in said


@pytest.mark.slow
def test_kill_9_leaves_no_half_artifact_and_resume_ends_well(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    generator = random.Random(1)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(_recipe(tiny_bert, intents, tmp_path / "a", epochs=6)))

    def program() -> list[str]:
        resume = ["--resume"] if any_checkpoint(tmp_path / "a.training") is not None else []
        return [PEFTTOOLS, "train", str(path), *resume]

    killed = 0
    for _ in range(2):
        process = subprocess.Popen(
            program(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=generator.uniform(4, 8))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        if (tmp_path / "a").exists():
            verify_files(tmp_path / "a", read_manifest(tmp_path / "a"))
        time.sleep(0.1)
    assert killed
    if any_checkpoint(tmp_path / "a.training") is not None or not (tmp_path / "a").exists():
        subprocess.run(program(), check=True, capture_output=True)
    manifest = read_manifest(tmp_path / "a")
    verify_files(tmp_path / "a", manifest)
    assert manifest.training["steps"] == 60
