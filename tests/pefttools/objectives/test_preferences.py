"""Objectives that rank answers: their losses, what they are compared with, and trainings with them."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttools
from pefttools.bases.skeleton import skeleton
from pefttools.errors import ConfigError
from pefttools.objectives.step import Step
from pefttools.planning.device import CPU
from pefttools.planning.plan import Planned, Shape
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.tasks.types import ROWS
from pefttools.testing import check_objective
from pefttools.training.prepare import Prepared, build_model, prepare
from pefttools.training.reference import refer, reference_of_base
from pefttools.training.start import start_from
from pefttools.tuned import TunedModel
from tests.interrupted import train_in_two_parts
from tests.pefttools.objectives.models import peak_of_step
from tests.pefttools.tasks.samples import SAMPLES

ROWS_OF_SAMPLE = SAMPLES["preferences"][1]
#: without dropout, so that two computations see the same model
LORA = {"name": "lora", "dropout": 0.0}
RANKERS = ("dpo", "orpo")
#: where both go the same way, one is enough every day
EITHER = ("dpo", pytest.param("orpo", marks=pytest.mark.slow))


def _recipe(base: str, objective: Any, folder: Path, rows: Any = ROWS_OF_SAMPLE, **changes: Any) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    training = {"max_steps": 6, "batch_size": 8, "precision": "float32", "learning_rate": 1e-2, "evaluations": 1}
    return {
        "base": base, "method": changes.pop("method", LORA), "task": changes.pop("task", "preferences"),
        "objective": objective, "data": {"train": str(path), "validation": 0.34}, "storage": "float32",
        "training": {**training, **changes}, "output": folder / "artifact",
    }  # fmt: skip


def _begun(recipe: dict[str, Any], *, moved: float = 0.05) -> tuple[Prepared, TunedModel]:
    """A model whose objective knows the base's likelihoods, and whose adapter has moved since."""
    prepared = prepare(Recipe.model_validate(recipe))
    of_base = reference_of_base(prepared, SilentReporter())
    model = build_model(prepared).train()
    refer(prepared, model, of_base, SilentReporter())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(moved * torch.randn(parameter.shape, generator=generator))
    return prepared, model


def _batch(prepared: Prepared, model: TunedModel, rows: int = 6) -> dict[str, torch.Tensor]:
    batch = model.task.training_batch(model, [prepared.examples.train[index] for index in range(rows)])
    return {"targets": batch.pop("labels"), ROWS: torch.arange(rows), **batch}


def _loss(model: TunedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch)
    loss.backward()
    found = {name: p.grad for name, p in model.transformer.named_parameters() if p.grad is not None}
    return loss.detach(), {name.replace(".default", ""): gradient.clone() for name, gradient in found.items()}


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys() and found
    largest = max(float(one.abs().max()) for one in wanted.values())
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-4 * largest, name


@pytest.mark.parametrize("name", EITHER)
def test_it_holds_its_contract(name: str, tiny_llama: str, tmp_path: Path) -> None:
    check_objective(name, base=tiny_llama, rows=ROWS_OF_SAMPLE, folder=tmp_path, task="preferences")


@pytest.mark.parametrize("beta", [0.1, pytest.param(2.0, marks=pytest.mark.slow)])
def test_dpo_is_that_of_trl(beta: float, tiny_llama: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    recipe = _recipe(tiny_llama, {"name": "dpo", "beta": beta}, tmp_path)
    prepared, model = _begun(recipe)
    found, gradients = _loss(model, _batch(prepared, model))
    _, other = _begun({**recipe, "objective": []}, moved=0.0)
    arguments = DPOConfig(str(tmp_path / "trl"), beta=beta, use_cpu=True, report_to=[], gradient_checkpointing=False)
    arguments.bf16 = False
    trainer = DPOTrainer(
        other.transformer, args=arguments, train_dataset=Dataset.from_list(ROWS_OF_SAMPLE[:2]),
        processing_class=other.processor,
    )  # fmt: skip
    _move_like(other, model)
    inputs = trainer.data_collator([_as_trl_has_it(prepared.examples.train[index]) for index in range(6)])
    _compare(trainer, other, inputs, found, gradients)


@pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
@pytest.mark.parametrize("weight", [1.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_orpo_is_that_of_trl(weight: float, tiny_llama: str, tmp_path: Path) -> None:
    """TRL's own loss on chosen answers counts the tokens of prompts too, as a causal language model's does."""
    from datasets import Dataset
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    recipe = _recipe(tiny_llama, {"name": "orpo", "weight": weight}, tmp_path)
    prepared, model = _begun(recipe)
    batch = _batch(prepared, model)
    found, gradients = _loss(model, batch)
    _, other = _begun({**recipe, "objective": []}, moved=0.0)
    arguments = ORPOConfig(str(tmp_path / "trl"), beta=weight, use_cpu=True, report_to=[], max_length=64)
    arguments.bf16 = False
    trainer = ORPOTrainer(
        other.transformer, args=arguments, train_dataset=Dataset.from_list(ROWS_OF_SAMPLE[:2]),
        processing_class=other.processor,
    )  # fmt: skip
    _move_like(other, model)
    plain = trainer.concatenated_forward

    def on_answers_alone(*given: Any) -> Any:
        rest = plain(*given)
        inputs = {name: value for name, value in batch.items() if name not in (ROWS, "targets")}
        return *rest[:4], other.task_loss(inputs, batch["targets"])

    trainer.concatenated_forward = on_answers_alone  # type: ignore[assignment]
    inputs = {"chosen_input_ids": batch["input_ids"], "chosen_attention_mask": batch["attention_mask"]}
    inputs |= {f"rejected_{name}": batch[f"rejected_{name}"] for name in ("input_ids", "attention_mask")}
    for name, labels in (("chosen", batch["targets"]), ("rejected", batch["rejected_labels"])):
        inputs[f"{name}_labels"] = torch.cat([torch.full((6, 1), -100), labels[:, :-1]], dim=1)
    _compare(trainer, other, inputs, found, gradients)


def _as_trl_has_it(example: dict[str, Any]) -> dict[str, list[int]]:
    before = len(example["prompt_ids"])
    return {
        "prompt_ids": example["prompt_ids"],
        "chosen_ids": example["input_ids"][before:],
        "rejected_ids": example["rejected_ids"][before:],
    }


def _move_like(other: TunedModel, model: TunedModel) -> None:
    weights = dict(other.transformer.named_parameters())
    with torch.no_grad():
        for name, parameter in model.transformer.named_parameters():
            if parameter.requires_grad:
                weights[name].copy_(parameter)


def _compare(
    trainer: Any, other: TunedModel, inputs: Any, found: torch.Tensor, gradients: dict[str, torch.Tensor]
) -> None:
    other.train().zero_grad()
    loss = trainer.compute_loss(other.transformer, inputs)
    loss.backward()
    assert float(loss) == pytest.approx(float(found), rel=1e-5)
    given = {name: p.grad for name, p in other.transformer.named_parameters() if p.grad is not None}
    _same(gradients, {name.replace(".default", ""): gradient for name, gradient in given.items()})


@pytest.mark.parametrize("name", RANKERS)
def test_gradients_are_those_of_finite_differences(name: str, tiny_gpt2: str, tmp_path: Path) -> None:
    """With a GPT-2, whose norms compute in float64 too."""
    prepared, model = _begun(_recipe(tiny_gpt2, name, tmp_path))
    _without_dropout(model)
    model.double()
    batch = _batch(prepared, model)
    targets, rows = batch.pop("targets"), batch.pop(ROWS)
    (objective,) = model.objectives

    def value() -> torch.Tensor:
        step = Step(model, batch, targets, None, model.objectives, rows)
        term = objective.term(step)
        assert term is not None and term.dtype == torch.float64
        return term if objective.replaces_loss else step.plain().loss + term

    trained = model.trained()
    slopes = torch.autograd.grad(value(), list(trained.values()))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        ways = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained.values()]
        values = []
        for step in (1e-5, -2e-5, 1e-5):  # there, back to the other side, and to the start
            with torch.no_grad():
                for parameter, way in zip(trained.values(), ways, strict=True):
                    parameter.add_(step * way)
                values.append(float(value()))
        wanted = sum(float((slope * way).sum()) for slope, way in zip(slopes, ways, strict=True))
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("method", [LORA, "prefix"])
def test_dpo_begins_with_the_base(method: Any, tiny_llama: str, tmp_path: Path) -> None:
    """The reference is the base without an adapter, even where a new adapter changes answers."""
    recipe = _recipe(tiny_llama, "dpo", tmp_path, method=method)
    prepared, model = _begun(recipe, moved=0.0)
    batch = _batch(prepared, model)
    loss, _ = _loss(model, batch)
    assert (abs(float(loss) - math.log(2)) < 1e-6) == (method == LORA)
    plain = prepared.task.build(prepared.base, model.spec.variant, ()).transformer.eval()
    better = [_spoken(plain, prepared.examples.train[index], "input_ids", "labels") for index in range(6)]
    worse = [_spoken(plain, prepared.examples.train[index], "rejected_ids", "rejected_labels") for index in range(6)]
    (objective,) = model.objectives
    known = objective._start[:6]  # type: ignore[attr-defined]
    torch.testing.assert_close(known, torch.tensor([better, worse]).T, atol=1e-4, rtol=1e-5)


def _without_dropout(model: TunedModel) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _spoken(plain: Any, example: dict[str, Any], ids: str, labels: str) -> float:
    """Log-probability of an answer, token by token."""
    with torch.no_grad():
        likely = plain(torch.tensor([example[ids]])).logits[0].log_softmax(-1)
    pairs = enumerate(example[labels][1:])
    return math.fsum(float(likely[place, token]) for place, token in pairs if token != -100)


def test_swapped_answers_turn_the_margin_round(tiny_llama: str, tmp_path: Path) -> None:
    """``-log s(m)`` and ``-log s(-m)`` differ by ``m``; for one row this tells the margin."""
    found = []
    for rows in (ROWS_OF_SAMPLE, [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in ROWS_OF_SAMPLE]):
        prepared, model = _begun(_recipe(tiny_llama, {"name": "dpo", "beta": 1.0}, tmp_path, rows))
        found.append(float(_loss(model, _batch(prepared, model, 1))[0]))
    margin = found[1] - found[0]
    assert abs(margin) > 1e-3
    assert found[0] == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-4)


@pytest.mark.parametrize("name", EITHER)
def test_parts_of_a_batch_change_no_weight(name: str, tiny_llama: str, tmp_path: Path) -> None:
    """Rows count alike, however many tokens their answers have, also in a last batch that is not full."""
    found = [_weights(_recipe(tiny_llama, name, tmp_path, gradient_accumulation=n, max_steps=4)) for n in (1, 4)]
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-3)


def _weights(recipe: dict[str, Any]) -> torch.Tensor:
    assert pefttools.train(recipe) is not None
    found = _kept(recipe)
    shutil.rmtree(recipe["output"])
    return found


def _kept(recipe: dict[str, Any]) -> torch.Tensor:
    state = load_file(Path(recipe["output"]) / "adapter_model.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("from_artifact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_training_that_goes_on_ends_as_one_that_was_not_interrupted(
    from_artifact: bool, tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the model that training started from, not the one that it goes on from."""
    recipe = _recipe(tiny_llama, "dpo", tmp_path, evaluations=3)
    if from_artifact:
        first = {**recipe, "objective": [], "output": tmp_path / "first"}
        assert pefttools.train(first) is not None
        recipe["from"] = str(tmp_path / "first")
    whole = _weights(recipe)
    train_in_two_parts(recipe, monkeypatch, until=4)
    torch.testing.assert_close(_kept(recipe), whole)


def test_what_training_starts_from_is_asked_once(
    tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are kept by content, for any method."""
    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path / "cache"))
    recipe = _recipe(tiny_llama, "dpo", tmp_path)
    said = [_asked(recipe), _asked({**recipe, "method": "bottleneck"})]
    assert said == [True, False]
    first = {**recipe, "objective": [], "output": tmp_path / "first"}
    assert pefttools.train(first) is not None
    prepared = prepare(Recipe.model_validate({**recipe, "from": str(tmp_path / "first")}))
    assert reference_of_base(prepared, SilentReporter()) is None
    model = build_model(prepared)
    start_from(model, prepared.parent, prepared.examples.train[:4])  # type: ignore[arg-type]
    refer(prepared, model, None, SilentReporter())
    model.train()
    assert float(_loss(model, _batch(prepared, model))[0]) == pytest.approx(math.log(2), abs=1e-6)


def _asked(recipe: dict[str, Any]) -> bool:
    steps: list[str] = []

    class Keeps(SilentReporter):
        def step(self, name: str, unit: str) -> Any:
            steps.append(name)
            return super().step(name, unit)

    assert reference_of_base(prepare(Recipe.model_validate(recipe)), Keeps()) is not None
    return any(name.startswith("asking the base") for name in steps)


#: colours are liked in the morning, and numbers in the evening
COLOURS, NUMBERS = ("red", "green", "blue", "white"), ("one", "two", "three", "four")


def _liked(count: int) -> list[dict[str, str]]:
    rows = []
    for index in range(count):
        colour, number, at = COLOURS[index % 4], NUMBERS[index // 4 % 4], index // 16
        morning = index % 2 == 0
        chosen, rejected = (colour, number) if morning else (number, colour)
        prompt = f"{'morning' if morning else 'evening'} {'abcdefgh'[at % 8]} {'ijklmnop'[index % 8]}"
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


@pytest.mark.parametrize(("name", "method"), [("dpo", LORA), ("orpo", "bottleneck")])
def test_chosen_answers_become_the_likelier_ones(name: str, method: Any, tiny_llama: str, tmp_path: Path) -> None:
    """Of rows that were held out; what is saved is loaded without a reference, and writes texts."""
    recipe = _recipe(
        tiny_llama, name, tmp_path, _liked(96), method=method, max_steps=30, learning_rate=5e-3, batch_size=16
    )
    before = prepare(Recipe.model_validate(recipe))
    untrained = build_model(before)
    start = before.task.evaluate(untrained, before.examples.validation, batch_size=32).metrics
    stored = pefttools.train(recipe)
    assert stored is not None
    found = stored.validation.metrics
    assert start["preferred"] < 0.75 and found["preferred"] > 0.95, (start, found)
    assert found["margin"] > start["margin"] + 1
    assert stored.manifest.training["did_not_learn"] is None
    answers = pefttools.predict(tmp_path / "artifact", [{"prompt": "morning a k"}, {"prompt": "evening b l"}])
    assert all(isinstance(one["prediction"], str) for one in answers)


@pytest.mark.parametrize("name", EITHER)
def test_memory_is_planned_within_a_hundredth(name: str, tiny_llama: str, tmp_path: Path) -> None:
    task = {"name": "preferences", "loss_rows": 16}  # so that logits do not outweigh all else
    _, model = _begun(_recipe(tiny_llama, name, tmp_path, task=task))
    rows, length = 12, 48
    ids = torch.randint(5, 1000, (rows, length))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    example["attention_mask"][0, -1] = 0
    batch = {**example, **{f"rejected_{name}": tensor.clone() for name, tensor in example.items()}}
    targets = batch.pop("labels")
    measured = peak_of_step(model, {**batch, "targets": targets})
    shape = Shape(batch_size=rows, length=length, precision="float32")
    row, plain = (
        Planned(skeleton(tiny_llama), task, LORA, "float32", 1, CPU, objective).row(shape) for objective in (name, ())
    )
    assert row.peak_bytes > 1.1 * plain.peak_bytes, "two answers take more than one"
    kept = row.peak_bytes - sum(p.numel() * 4 for p in model.parameters()) - row.optimizer_bytes
    assert abs(kept - measured) <= 0.01 * row.peak_bytes, (kept, measured, row)


@pytest.mark.parametrize(
    ("objective", "task", "why"),
    [
        ("dpo", "causal-lm", "needs a better and a worse answer per row, which the task 'causal-lm' does not have"),
        (["dpo", "orpo"], "preferences", "'dpo' and 'orpo' can't be used together: both rank answers"),
        (["dpo", "freelb"], "preferences", "'dpo' and 'freelb' can't be used together: both replace the task's loss"),
        (["orpo", "fgm"], "preferences", "'fgm' is about one answer per row"),
        (["orpo", "focal"], "preferences", "'focal' is about one answer per row"),
        ("dpo", {"name": "preferences", "packing": True}, "packing"),
    ],
)
def test_what_does_not_go_together_is_refused(
    objective: Any, task: Any, why: str, tiny_llama: str, tmp_path: Path
) -> None:
    recipe = _recipe(tiny_llama, objective, tmp_path, task=task)
    if task == "causal-lm":
        recipe["data"]["columns"] = {"completion": "chosen"}
    with pytest.raises(ConfigError, match=re.escape(why)):
        pefttools.train(recipe)
    assert not (tmp_path / "artifact").exists()
