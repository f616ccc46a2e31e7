"""AdaLoRA: ranks are taken on time, by a training that can be stopped, and what was taken is not stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttools
from pefttools.errors import ConfigError
from pefttools.recipe import Recipe

ROWS = [{"text": f"text number {n} of kind {'ab'[n % 2]}", "label": "ab"[n % 2]} for n in range(40)]


def _recipe(base: str, folder: Path, output: str, **training: Any) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return {
        "base": base, "method": {"name": "adalora", "r": 2, "initial_r": 4},
        "data": {"train": str(path), "validation": 0.2},
        "task": {"name": "sequence-classification"}, "output": str(folder / output),
        "training": {"epochs": 5, "batch_size": 4, "precision": "float32", "keep_best": False, **training},
    }  # fmt: skip


def _ranks(artifact: Path) -> list[int]:
    state = load_file(artifact / "adapter_model.safetensors")
    return [len(value) for name, value in state.items() if name.endswith("lora_E")]


def test_the_budget_is_met_and_stored(tiny_bert: str, tmp_path: Path) -> None:
    trained = pefttools.train(_recipe(tiny_bert, tmp_path, "a"))
    assert trained is not None
    ranks = _ranks(tmp_path / "a")
    assert sum(ranks) == 2 * len(ranks) == 24  # two per layer on average
    assert max(ranks) > 2  # and not the same for each
    wanted = pefttools.predict(trained.model, ROWS[:4])
    assert pefttools.predict(tmp_path / "a", ROWS[:4]) == wanted


def test_a_training_that_goes_on_takes_the_same_ranks(tiny_bert: str, tmp_path: Path) -> None:
    pefttools.train(_recipe(tiny_bert, tmp_path, "whole"))
    stopped = _recipe(tiny_bert, tmp_path, "stopped")
    run_until(stopped, 20)
    pefttools.train(stopped, resume=True)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-5, msg=name)


def run_until(recipe: dict[str, Any], step: int) -> None:
    """Train, and end as if killed after a step."""
    from unittest import mock

    from pefttools.adapters.low_rank.adalora import AdaLora

    class Killed(Exception):
        pass

    after = AdaLora.after_step

    def stop(self: AdaLora, model: torch.nn.Module, done: int) -> None:
        if done > step:
            raise Killed
        after(self, model, done)

    with mock.patch.object(AdaLora, "after_step", stop), pytest.raises(Killed):
        pefttools.train(Recipe.model_validate(recipe))


def test_the_penalty_is_that_of_peft(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "adalora", labels=["a", "b"], precision="float32")
    found = model.spec.method.penalty(model.transformer, model.spec.config)
    states = model.transformer.model  # type: ignore[union-attr]
    kept = states.forward  # type: ignore[union-attr]

    class Outputs:
        loss = torch.zeros(())

    states.forward = lambda: Outputs()  # type: ignore[union-attr, assignment]
    theirs = model.transformer.base_model.forward().loss  # type: ignore[union-attr, operator]
    states.forward = kept  # type: ignore[union-attr]
    torch.testing.assert_close(found, theirs)
    ranknum = [p for name, p in model.named_parameters() if "ranknum" in name]
    assert ranknum and not any(p.requires_grad for p in ranknum)


def test_too_short_a_training_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a training of 1 steps leaves adalora no time"):
        pefttools.train(_recipe(tiny_bert, tmp_path, "a", max_steps=1))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"r": 8, "initial_r": 8}, "there is no rank to prune"),
        ({"warmup": 0.5, "final": 0.5}, "leave no steps in which ranks could be pruned"),
    ],
)
def test_schedules_that_cannot_be_are_refused(options: dict[str, Any], said: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pefttools.wrap(tiny_bert, {"name": "adalora", **options}, labels=["a", "b"])
