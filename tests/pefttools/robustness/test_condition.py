"""Conditions: what they are called, what they refuse, and what `evaluate` does with them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pefttools
from pefttools.cli.main import build_app
from pefttools.data import Table
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.recipe import choose_task, validate
from pefttools.robustness import Condition
from pefttools.tasks import tasks
from pefttools.tuned import TunedModel
from tests.pefttools.objectives.models import classifier
from tests.pefttools.robustness.test_typos import table_of
from tests.pefttools.test_resume import Told

ROWS = [
    {"text": "where is my card please", "label": "a"}, {"text": "I lost it yesterday", "label": "b"},
    {"text": "send the money back to the other account today", "label": "c"}, {"text": "no", "label": "a"},
]  # fmt: skip


def condition(**given: Any) -> Condition:
    return validate(Condition, given, "robustness")


def test_titles_say_what_is_done() -> None:
    assert condition(typos=0.1).title == "typos in 10 % of words"
    assert condition(attack="fgm").title == "fgm (epsilon 0.1)"
    given = {"name": "pgd", "epsilon": 0.2, "steps": 5}
    assert condition(attack=given).title == "pgd (epsilon 0.2, steps 5, norm l2)"
    assert condition(typos=0.05, attack="fgm").title == "typos in 5 % of words and fgm (epsilon 0.1)"
    assert condition(typos=0.1, name="phones").title == "phones"
    assert condition(typos=0.1).settings() == {"typos": 0.1, "seed": 0}
    assert condition(attack="fgm").settings() == {"attack": {"name": "fgm", "epsilon": 0.1}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give typos, an attack, or both"),
        ({"typos": 1.5}, "less than or equal to 1"),
        ({"attack": "r-drop"}, "'r-drop' is not an attack"),
        ({"attack": {"name": "fgm", "weight": 2}}, "attack.weight counts in training only"),
        ({"attack": {"name": "fgm", "epsilon": 0}}, "epsilon"),
    ],
)
def test_what_can_not_be_done_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        condition(**given).chosen_attack()
    with pytest.raises(UnknownNameError):
        condition(attack="fgsm").chosen_attack()


def _table(task: str) -> Table:
    return table_of([dict.fromkeys(tasks.get(task).roles, "x")])


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("causal-lm", {"attack": "fgm"}, "can't be measured under an attack"),
        ("masked-lm", {"attack": "fgm"}, "can't be measured under an attack"),
        ("multiple-choice", {"attack": "fgm"}, "one at a time"),
        ("sentence-embedding", {"attack": "fgm"}, "whose loss compares all rows of a batch"),
        ("masked-lm", {"typos": 0.1}, "without changing what is right"),
        ("image-classification", {"typos": 0.1}, "without changing what is right"),
    ],
)
def test_tasks_that_have_no_such_thing_refuse_it(task: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        condition(**given).check(choose_task(task), _table(task))


def test_what_reads_texts_without_labels_is_not_attacked() -> None:
    for calibrate in (True, False):
        task = choose_task({"name": "prompted-classification", "calibrate": calibrate})
        with pytest.raises(ConfigError, match="also reads texts that have no label") if calibrate else nullcontext():
            condition(attack="fgm").check(task, _table("prompted-classification"))


def test_chats_take_no_typos_and_prompts_do() -> None:
    task = choose_task("causal-lm")
    with pytest.raises(ConfigError, match="takes them in prompt"):
        condition(typos=0.1).check(task, table_of([{"messages": "x"}]))
    found = condition(typos=1.0).misspelt(table_of([{"prompt": "please answer", "completion": "please answer"}]), task)
    assert found is not None and found.table.rows[0]["completion"] == "please answer" != found.table.rows[0]["prompt"]


def test_a_context_that_answers_are_pieces_of_has_no_typos() -> None:
    row = {"question": "which letters", "context": "these letters", "answers": ["letters"]}
    found = condition(typos=1.0).misspelt(table_of([row]), choose_task("question-answering"))
    assert found is not None and found.changed == 2
    assert found.table.rows[0]["context"] == row["context"] and found.table.rows[0]["question"] != row["question"]


@pytest.fixture(scope="module")
def model(tiny_bert: str) -> TunedModel:
    return classifier(tiny_bert)


def test_evaluate_under_typos_and_an_attack(model: TunedModel) -> None:
    table, told = table_of(ROWS), Told()
    plain = pefttools.evaluate(model, table)
    typos = pefttools.evaluate(model, table, typos=1.0, reporter=told)
    assert "typos in 11 of 11 words of four letters or more" in told.events
    assert typos.metrics["loss"] != plain.metrics["loss"] and typos.references == plain.references
    again = pefttools.evaluate(model, table, typos=1.0)
    other = pefttools.evaluate(model, table, typos=1.0, seed=1)
    assert again.metrics == typos.metrics != other.metrics
    attacked = pefttools.evaluate(model, table, attack={"name": "fgm", "epsilon": 0.2})
    alone = pefttools.evaluate(model, table, attack={"name": "fgm", "epsilon": 0.2}, batch_size=1)
    assert attacked.metrics["loss"] > plain.metrics["loss"] and attacked.references == plain.references
    assert attacked.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-4)
    both = pefttools.evaluate(model, table, typos=1.0, attack={"name": "fgm", "epsilon": 0.2})
    assert both.metrics["loss"] > typos.metrics["loss"]


def test_the_command_line(model: TunedModel, tmp_path: Path) -> None:
    pefttools.save(model, tmp_path / "artifact")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))

    def loss(*options: str) -> float:
        given = ["evaluate", str(tmp_path / "artifact"), "--data", str(data), "--json", *options]
        done = CliRunner().invoke(build_app(), given)
        assert done.exit_code == 0, done.output
        return float(json.loads(done.stdout[done.stdout.index("{") :])["loss"])

    wanted = pefttools.evaluate(model, table_of(ROWS), attack={"name": "pgd", "epsilon": 1e-1, "steps": 2})
    assert loss("--attack", "{name: pgd, epsilon: 1e-1, steps: 2}") == pytest.approx(wanted.metrics["loss"], rel=1e-4)
    assert loss("--typos", "0.5", "--seed", "3") == pytest.approx(
        pefttools.evaluate(model, table_of(ROWS), typos=0.5, seed=3).metrics["loss"], rel=1e-4
    )
    refused = CliRunner().invoke(build_app(), ["evaluate", "x", "--data", "y", "--attack", "[fgm"])
    assert isinstance(refused.exception, ConfigError) or "not valid YAML" in refused.output
