"""A student learns what its teacher answers, whatever the labels say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError
from tests.conftest import MINILM

TEXTS = ["where is my card", "my card is lost", "I want my money back", "please return the money", "what is the rate",
         "how good is the rate"]  # fmt: skip
LABELS = ["card", "card", "refund", "refund", "rate", "rate"]


def _rows(path: Path, labels: list[str]) -> str:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(zip(TEXTS * 6, labels * 6, strict=True))
    return str(path)


def _recipe(base: str, rows: str, output: Path, **fields: Any) -> dict[str, Any]:
    return {
        "base": base, "method": "lora", "data": {"train": rows, "validation": rows},
        "training": {"epochs": 6, "batch_size": 12, "precision": "float32", "learning_rate": 5e-3},
        "output": str(output), **fields,
    }  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    stored = pefttools.train(_recipe(MINILM, _rows(folder / "rows.csv", LABELS), folder / "artifact"))
    assert stored is not None
    return folder / "artifact"


def _answers(artifact: Path) -> list[str]:
    return [one["prediction"] for one in pefttools.predict(artifact, TEXTS)]


@pytest.mark.slow
def test_a_student_learns_the_teacher_and_not_the_labels(
    teacher: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's labels are all wrong. The teacher is asked once, for two students of which one is quantized."""
    assert _answers(teacher) == LABELS
    wrong = _rows(tmp_path / "rows.csv", LABELS[2:] + LABELS[:2])
    asked = []
    from pefttools.training import teaching

    plain = teaching.load_verified
    monkeypatch.setattr(teaching, "load_verified", lambda *a, **k: asked.append(1) or plain(*a, **k))
    for number, more in enumerate([{}, {"variant": "nf4", "method": "ia3"}]):
        objective = {"name": "distillation", "teacher": str(teacher), "alpha": 1.0}
        recipe = _recipe(MINILM, wrong, tmp_path / str(number), objective=objective, **more)
        recipe["training"] |= {"keep_best": False, "learning_rate": 5e-3 if number == 0 else 2e-2}
        pefttools.train(recipe)
        assert _answers(tmp_path / str(number)) == LABELS
    assert len(asked) == 1
    assert len(list((cache / "teachers").iterdir())) == 1


def test_the_loss_is_the_papers(teacher: Path, tmp_path: Path) -> None:
    """With rows in another order than they are trained in."""
    from pefttools.progress import SilentReporter
    from pefttools.recipe import Recipe
    from pefttools.training.prepare import build_model, prepare
    from pefttools.training.teaching import answers_of

    objective = {"name": "distillation", "teacher": [str(teacher)] * 2, "alpha": 0.3, "temperature": 3.0}
    rows = _rows(tmp_path / "rows.csv", LABELS)
    recipe = Recipe.model_validate(_recipe(MINILM, rows, tmp_path / "artifact", objective=objective))
    prepared = prepare(recipe)
    ((one, _),) = prepared.teachers
    logits = answers_of(one, prepared.splits.train, prepared.labels, 8, SilentReporter()).logits
    model = build_model(prepared).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.objectives[0].teach([logits, logits])
    chosen = [4, 1, 3]
    batch = model.task.training_batch(model, [prepared.examples.train[number] for number in chosen])
    targets = batch.pop("labels")
    found = model(**batch, rows=torch.tensor(chosen), targets=targets)
    with torch.no_grad():
        student = model(**batch).float()
    taught = (logits[chosen] / 3).softmax(-1)
    divergence = (taught * (taught.log() - (student / 3).log_softmax(-1))).sum(-1).mean()
    wanted = 0.7 * torch.nn.functional.cross_entropy(student, targets) + 0.3 * 9 * divergence
    torch.testing.assert_close(found.detach(), wanted, atol=1e-4, rtol=1e-4)


class TestRefusals:
    def _raises(self, match: str, recipe: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=match):
            pefttools.train(recipe)

    def test_other_labels(self, teacher: Path, tmp_path: Path) -> None:
        rows = _rows(tmp_path / "rows.csv", [*LABELS[:4], "fee", "fee"])
        objective = {"name": "distillation", "teacher": str(teacher)}
        self._raises("the teacher does not know 'fee'", _recipe(MINILM, rows, tmp_path / "a", objective=objective))

    def test_another_task(self, teacher: Path, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": t, "labels": ["card"]}) + "\n" for t in TEXTS))
        recipe = _recipe(MINILM, str(path), tmp_path / "a", task="multi-label-classification",
                         objective={"name": "distillation", "teacher": str(teacher)})  # fmt: skip
        self._raises("was trained for the task 'sequence-classification'", recipe)

    def test_a_task_without_one_answer_per_row(self, teacher: Path, tmp_path: Path, tiny_llama: str) -> None:
        rows = _rows(tmp_path / "rows.csv", LABELS)
        recipe = _recipe(tiny_llama, rows, tmp_path / "a", task="causal-lm",
                         objective={"name": "distillation", "teacher": str(teacher)})  # fmt: skip
        self._raises("needs one answer per row", recipe)


def test_a_checkpoint_belongs_to_its_teacher(teacher: Path, tmp_path: Path) -> None:
    from pefttools.recipe import Recipe
    from pefttools.training.prepare import prepare
    from pefttools.training.resume import made_from

    rows = _rows(tmp_path / "rows.csv", LABELS)
    objective = {"name": "distillation", "teacher": str(teacher)}
    prepared = prepare(Recipe.model_validate(_recipe(MINILM, rows, tmp_path / "a", objective=objective)))
    assert made_from(prepared)["teacher 1"] == prepared.teachers[0][0].digest
    assert prepared.digests()["teacher 1"] == prepared.teachers[0][0].digest


@pytest.mark.parametrize("groups", [[["b"], ["a", "c"]], [["c", "a", "b"]]])
def test_answers_are_learned_group_by_group(groups: list[list[str]], tiny_bert: str) -> None:
    """As in learning without forgetting: logits of labels that are not named have no part in it."""
    from pefttools.objectives.step import Step
    from tests.pefttools.objectives.models import batch_of, classifier

    options = {"name": "distillation", "teacher": "somewhere", "temperature": 2.0, "alpha": 0.25, "among": groups}
    model = classifier(tiny_bert, options)
    (objective,) = model.objectives
    batch = batch_of(model)
    targets = batch.pop("targets")
    answers = torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(1))
    objective.teach([answers])
    model.begin_objectives()
    step = Step(model, batch, targets, None, model.objectives, torch.arange(len(targets)))
    found = objective.term(step)
    plain = step.plain()
    assert found is not None and plain.logits is not None
    total = torch.zeros(())
    for group in groups:
        columns = ["abc".index(label) for label in group]
        known = (answers[:, columns] / 2).softmax(-1)
        given = (plain.logits[:, columns] / 2).log_softmax(-1)
        total = total + (known * (known.log() - given)).sum()
    wanted = 0.75 * plain.loss + 0.25 * 4 * total / len(targets)
    torch.testing.assert_close(found, wanted)


def test_a_group_with_a_label_that_there_is_none_of_is_refused_before_the_teacher_is_read(
    tiny_bert: str, tmp_path: Path
) -> None:
    objective = {"name": "distillation", "teacher": str(tmp_path / "none"), "among": [["card", "crad"]]}
    with pytest.raises(ConfigError, match=r"distillation\.among: there is no label 'crad'"):
        pefttools.train(_recipe(tiny_bert, _rows(tmp_path / "rows.csv", LABELS), tmp_path / "a", objective=objective))
