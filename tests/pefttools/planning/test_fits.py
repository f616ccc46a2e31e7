"""What fits on a card, and the device model behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import pefttools
from pefttools.bases.skeleton import skeleton
from pefttools.cli.main import build_app
from pefttools.errors import ConfigError
from pefttools.planning.device import CARDS, CPU, GPU, MIB, Device
from pefttools.planning.fits import cheapest_changes, largest_that_fit
from pefttools.planning.optimizers import planned_optimizer
from pefttools.planning.plan import Planned, Shape
from pefttools.planning.request import PlanRequest, resolve_request


def _planned(base: str, card: Device = GPU, method: Any = "lora") -> Planned:
    return Planned(skeleton(base), "causal-lm", method, "float32", 2, card)


def _card(memory: int) -> Device:
    return Device("tiny", "a tiny card", memory=memory, context=0, workspace=0, slack=0.0)


@pytest.mark.slow
def test_changes_come_from_the_cheapest_on_and_end_with_one_that_fits(tiny_llama: str) -> None:
    shape = Shape(16, 64, eval_batch_size=1)
    whole = _planned(tiny_llama).training_bytes(shape)
    least = _planned(tiny_llama).training_bytes(replace(shape, gradient_checkpointing=True, accumulation=16))
    planned = _planned(tiny_llama, _card((whole + least) // 2))
    changes = list(cheapest_changes(planned, shape))
    assert changes[0].text == "gradient_checkpointing: selective"
    assert [change.fits for change in changes] == [False] * (len(changes) - 1) + [True]
    assert all(change.row.total_bytes < whole for change in changes)


@pytest.mark.slow
def test_the_largest_batch_fits_and_is_near_the_limit(tiny_llama: str) -> None:
    planned, shape = _planned(tiny_llama), Shape(1, 32)
    budget = planned.training_bytes(replace(shape, batch_size=23))
    (found, none) = largest_that_fit(planned, shape, [_card(budget), _card(MIB)])
    assert 20 <= found.batch_size <= 23
    assert planned.training_bytes(replace(shape, batch_size=found.batch_size)) <= budget
    assert planned.training_bytes(replace(shape, batch_size=1, length=found.length)) <= budget
    assert none.batch_size == none.length == 0


@pytest.mark.slow
def test_the_largest_batch_fits_where_memory_grows_ever_slower(tiny_llama: str) -> None:
    """A piece of the loss is full at 64 tokens: from there on a row takes little more."""
    task = {"name": "causal-lm", "loss_rows": 64}
    planned = Planned(skeleton(tiny_llama), task, "lora", "float32", 2, GPU)
    one, two, four = (planned.training_bytes(Shape(rows, 32)) for rows in (1, 2, 4))
    assert two - one > 2 * (four - two)
    (found,) = largest_that_fit(planned, Shape(1, 32), [_card((one + two) // 2)])
    assert found.batch_size == 1
    assert 32 <= found.length < 64


def test_what_is_usable_fits() -> None:
    for card in CARDS.values():
        assert card.usable is not None and card.memory is not None
        assert card.usable + card.overhead(card.usable) <= card.memory


def test_devices_share_a_batch(tiny_llama: str) -> None:
    planned = _planned(tiny_llama)
    alone = Shape(4, 32)
    # Gradients are averaged in buckets beside them.
    buckets = 4 * planned.build(alone).count().trainable
    assert planned.training_bytes(Shape(16, 32, devices=4)) == planned.training_bytes(alone) + buckets


def test_attention_on_a_gpu_keeps_no_table_of_all_pairs(tiny_bert: str) -> None:
    """With dropout the CPU takes its math kernel, whose tables of [rows, heads, length, length] a GPU never has."""
    shape, task = Shape(4, 128, precision="float32"), {"name": "sequence-classification", "head": "mean"}
    found = {
        device.name: Planned(skeleton(tiny_bert), task, "lora", "float32", 2, device).training_bytes(shape)
        for device in (GPU, replace(GPU, name="cpu", gpu=False))
    }
    layers, heads = 2, 4
    table = 4 * heads * 128 * 128 * 4
    assert found["cpu"] - found["gpu"] > layers * table


@pytest.mark.slow
def test_sizes_are_rounded_as_the_allocator_does(tiny_llama: str) -> None:
    rough, fine = (_planned(tiny_llama, replace(GPU, granularity=size)).row(Shape(1, 8)) for size in (512, 1))
    assert 0 < rough.peak_bytes - fine.peak_bytes < 512 * 2000
    assert rough.optimizer_bytes % 512 == 0


@pytest.mark.parametrize("sizes", [((64, 64), (100, 200), (7,))])
def test_the_8_bit_optimizer_has_the_state_of_the_real_one(sizes: tuple[tuple[int, ...], ...]) -> None:
    from bitsandbytes.optim import AdamW8bit

    found = []
    for planned in (True, False):
        trained = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
        optimizer: torch.optim.Optimizer = (
            planned_optimizer("adamw_8bit", trained, GPU) if planned else AdamW8bit(trained, lr=1e-3)
        )
        for p in trained:
            p.grad = torch.randn_like(p)
        optimizer.step()
        # Code books are shared by all parameters.
        found.append(
            [
                sorted(
                    value.nbytes
                    for name, value in optimizer.state[p].items()
                    if isinstance(value, torch.Tensor) and "qmap" not in name
                )
                for p in trained
            ]
        )
    assert found[0] == found[1]


def _run(*arguments: str) -> Any:
    result = CliRunner().invoke(build_app(), ["plan", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.splitlines()[-1])


@pytest.mark.slow
def test_a_recipe_on_a_card(tiny_llama: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"base: {tiny_llama}\nmethod: {{name: lora, r: 4}}\ntask: {{name: causal-lm, max_length: 48}}\n"
        "data: {train: rows.csv}\ntraining: {batch_size: 8, gradient_checkpointing: selective}\n"
    )
    found = _run(str(recipe), "--gpu", "h100", "--set", "training.eval_batch_size=2")
    assert found["rows"][0]["device"] == "h100"
    assert found["rows"][0]["generation_bytes"] > 0
    assert found["verdicts"][0]["fits"]
    same = _run(tiny_llama, "--task", "causal-lm", "--methods", "lora", "--batch-size", "8", "--length", "48",
                "--eval-batch-size", "2", "--gradient-checkpointing", "selective", "--gpu", "h100")  # fmt: skip
    # Another rank: a little more.
    assert same["rows"][0]["peak_bytes"] > found["rows"][0]["peak_bytes"]
    assert {one["card"] for one in _run(str(recipe), "--fit")["fit"]} == {c for c in CARDS if CARDS[c].bfloat16}


def test_bad_questions(tiny_llama: str, tmp_path: Path) -> None:
    comparison = tmp_path / "comparison.yaml"
    comparison.write_text("base: x\nmethods: [lora]\n")
    for arguments, message in (
        ([tiny_llama, "--gpu", "h1000"], "unknown card 'h1000'"),
        ([str(comparison)], "is a comparison"),
        ([tiny_llama, "--gradient-checkpointing", "maybe"], "not 'maybe'"),
        ([tiny_llama, "--set", "a=b"], "no recipe was given"),
        ([tiny_llama, "--optimizer", "sgd"], "no optimizer 'sgd'"),
    ):
        result = CliRunner().invoke(build_app(), ["plan", *arguments])
        assert result.exit_code != 0
        assert message in str(result.exception)


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt", "bottleneck", "full"])
def test_any_method_on_any_gpu(method: str, tiny_llama: str) -> None:
    """With kernels that keep no table of all pairs, keys may be more than queries: those of a prefix are."""
    found = [
        _planned(tiny_llama, replace(GPU, flash=flash), method).training_bytes(Shape(2, 16)) for flash in (True, False)
    ]
    assert 0 < found[0] <= found[1]


def test_what_can_not_be_is_left_out(tiny_llama: str) -> None:
    found = _run(tiny_llama, "--task", "causal-lm", "--methods", "lora,full", "--variants", "nf4", "--batch-size", "2",
                 "--length", "8", "--eval-batch-size", "2", "--residents", "3")  # fmt: skip
    assert [row["method"] for row in found["rows"]] == ["lora"]
    assert found["serving"][0]["residents"] == 3
    assert found["serving"][0]["adapters_bytes"] > 0


@pytest.mark.slow
def test_the_api_plans_what_the_command_plans(tiny_llama: str, tmp_path: Path) -> None:
    rows = pefttools.plan(tiny_llama, task="causal-lm", methods=["lora"], variants=["float32", "nf4"], batch_size=4,
                          length=24)  # fmt: skip
    found = _run(tiny_llama, "--task", "causal-lm", "--methods", "lora", "--variants", "float32,nf4",
                 "--batch-size", "4", "--length", "24")  # fmt: skip
    assert [row.as_dict() for row in rows] == found["rows"] and [row.variant for row in rows] == ["float32", "nf4"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: {tiny_llama}\nmethod: lora\ntask: causal-lm\ndata: {{train: none.csv}}\n")
    (row,) = pefttools.plan(str(recipe), overrides=["training.batch_size=4"], length=24)
    assert row.peak_bytes == rows[0].peak_bytes
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        pefttools.plan(tiny_llama, batch_size=0)


def test_the_command_says_what_the_functions_do(tiny_llama: str) -> None:
    shape: dict[str, Any] = {"batch_size": 4, "length": 16, "eval_batch_size": 4}
    options = ["--batch-size", "4", "--length", "16", "--eval-batch-size", "4"]
    found = _run(tiny_llama, "--task", "causal-lm", "--residents", "3", *options)
    (row,) = pefttools.plan(tiny_llama, task="causal-lm", **shape)
    (pool,) = pefttools.plan_pool(tiny_llama, residents=3, task="causal-lm", **shape)
    assert found["rows"] == [row.as_dict()] and found["serving"] == [pool.as_dict()]


@pytest.mark.slow
def test_the_command_finds_the_largest_that_the_function_finds(tiny_llama: str) -> None:
    shape: dict[str, Any] = {"batch_size": 4, "length": 16, "eval_batch_size": 4}
    options = ["--batch-size", "4", "--length", "16", "--eval-batch-size", "4"]
    (largest,) = pefttools.largest_fit(tiny_llama, task="causal-lm", gpu="t4", **shape)
    fit = _run(tiny_llama, "--task", "causal-lm", "--gpu", "t4", "--fit", *options)["fit"]
    assert [(one["batch_size"], one["length"]) for one in fit] == [(largest.batch_size, largest.length)]


def test_sizes_are_said_in_the_unit_of_the_task(tiny_whisper: str, tiny_clip: str, tiny_wav2vec2: str) -> None:
    def asked(base: str, length: int, **task: Any) -> PlanRequest:
        return resolve_request(base, task, None, None, 2, [], {"length": length}, CPU)

    sounds = {"name": "audio-classification", "head": "mean", "max_seconds": 0.5}
    assert asked(tiny_wav2vec2, 20, **sounds).rows == "rows of 0.2 seconds"
    assert asked(tiny_whisper, 20, **sounds).rows == "rows of 0.5 seconds"  # all are padded to it
    assert asked(tiny_clip, 500, name="zero-shot-image-classification").rows == "rows"
    with pytest.raises(ConfigError, match=r"0.8 seconds are more than the 0.5 that .* can take"):
        asked(tiny_whisper, 80, **sounds).planned[0].row(Shape(2, 80))


@pytest.mark.slow
def test_prompts_of_labels_are_planned_by_the_longest(tiny_clip: str) -> None:
    def activations(prompts: dict[str, str]) -> int:
        task = {"name": "zero-shot-image-classification", "prompts": prompts}
        (found,) = pefttools.plan(tiny_clip, task=task, methods=["lora"], batch_size=2)
        return found.activations_bytes

    assert activations({"pug": "a small dog with a flat face and a tail that curls"}) > activations({})
