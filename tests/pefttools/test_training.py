"""Training: what it learns, divergence, the best state, trackers, learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import DivergedError
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
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
    # weight and bias of the classifier; the pooler came with the base and is not part of the head
    assert sum(len(group["params"]) for group in groups if group["initial_lr"] == 0.25) == 2


def test_float16_that_would_lose_weights_is_not_stored_and_no_training_is_lost(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    """Even where the recipe asks for float16: the training is done, and what it gave is kept in float32."""
    from tests.pefttools.test_resume import Told

    told = Told()
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", max_steps=2, learning_rate=1e-10)
    stored = pefttools.train({**recipe, "storage": "float16"}, reporter=told)
    assert stored is not None and stored.manifest.storage == "float32"
    assert any("float16 makes them 0: stored as float32" in event for event in told.events)


def test_what_was_cut_and_what_each_class_got_is_said(tiny_bert: str, intents: dict[str, str], tmp_path: Path) -> None:
    import json

    from pefttools.artifact.manifest import read_manifest, verify_files
    from pefttools.tasks.labels.classes import class_report

    lines: list[str] = []

    class Lines(SilentReporter):
        def event(self, text: str) -> None:
            lines.append(text)

    recipe = _recipe(tiny_bert, intents, tmp_path / "a", max_steps=2)
    recipe["task"]["max_length"] = 12
    stored = pefttools.train(recipe, reporter=Lines())
    assert stored is not None and stored.test is not None
    cut = stored.manifest.training["cut"]
    assert cut["test"]["rows"] == 80 and 0 < cut["test"]["cut"] < 80 and cut["test"]["longest"] > 12
    (line,) = [line for line in lines if line.startswith("test: ")]
    assert line.startswith(f"test: {cut['test']['cut']} of 80 rows (") and f"has {cut['test']['longest']}" in line
    assert f"| test rows truncated | {cut['test']['cut']} of 80" in (tmp_path / "a" / "README.md").read_text()
    found = json.loads((tmp_path / "a" / "classes.json").read_text())
    assert set(found) == {"validation", "test"}
    references = [entry["reference"] for entry in stored.test.entries()]
    report = class_report(stored.test.answers(), references, stored.model.labels)
    assert found["test"] == report.compact()
    assert [row[0] for row in found["test"]["classes"]] == list(stored.model.labels)
    assert sum(rows for _, _, rows in found["test"]["confusion"]) == 80
    right = sum(rows for true, given, rows in found["test"]["confusion"] if true == given)
    assert right / 80 == pytest.approx(stored.test.metrics["accuracy"])
    verify_files(tmp_path / "a", read_manifest(tmp_path / "a"))


def test_a_parameter_without_a_gradient_is_named(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pefttools.adapters.bitfit import BitFit
    from pefttools.errors import TrainingError

    wrap = BitFit.wrap

    def idle(self: Any, model: torch.nn.Module, config: Any, target: Any) -> torch.nn.Module:
        wrapped = wrap(self, model, config, target)
        wrapped.register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))
        return wrapped

    monkeypatch.setattr(BitFit, "wrap", idle)
    recipe = {**_recipe(tiny_bert, intents, tmp_path / "a", max_steps=2), "method": "bitfit"}
    with pytest.raises(TrainingError, match=r"1 parameters that 'bitfit' counts as trained got no gradient.*: .*idle"):
        pefttools.train(recipe)
