"""Active learning: what strategies choose, a simulation, and the loop in which a person labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import pefttools
from pefttools.cli.main import build_app
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.eval import label, simulate
from pefttools.eval.labelling import simulate as simulating
from pefttools.eval.labelling.data import Report
from pefttools.eval.labelling.report import HTML, JSON, report_of
from pefttools.eval.labelling.session import Entry, LabelFile, Session, choice_of
from pefttools.eval.labelling.spec import LabellingSpec
from pefttools.eval.labelling.strategies import STRATEGIES, Pool
from pefttools.eval.labelling.terminal import show
from pefttools.recipe import validate
from tests.conftest import INTENTS, MINILM


def _pool(seed: int, rows: int, labelled: int = 3) -> Pool:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(4), size=rows)
    return Pool(probabilities, generator.normal(size=(rows, 5)), generator.normal(size=(labelled, 5)))


@settings(deadline=None)
@given(st.sampled_from(list(STRATEGIES)), st.integers(0, 99), st.integers(1, 30), st.integers(1, 40))
def test_each_row_is_chosen_once_at_most(name: str, seed: int, rows: int, count: int) -> None:
    chosen = STRATEGIES[name](_pool(seed, rows), count, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen.tolist())) == min(count, rows)
    assert all(0 <= one < rows for one in chosen)


def test_uncertain_rows_come_first() -> None:
    sure, torn, lost = [0.97, 0.01, 0.01, 0.01], [0.49, 0.49, 0.01, 0.01], [0.28, 0.24, 0.24, 0.24]
    pool = Pool(np.array([sure, torn, lost]), np.zeros((3, 2)), np.zeros((1, 2)))
    generator = np.random.default_rng(0)
    assert STRATEGIES["entropy"](pool, 3, generator).tolist() == [2, 1, 0]
    assert STRATEGIES["margin"](pool, 3, generator).tolist() == [1, 2, 0]


def test_a_core_set_leaves_no_row_far_from_a_chosen_one() -> None:
    """Against a search through all choices: greedy is at most twice as far as the best one."""
    from itertools import combinations

    for seed in range(10):
        pool = _pool(seed, 9, labelled=2)

        def radius(chosen: tuple[int, ...], pool: Pool = pool) -> float:
            centers = np.concatenate([pool.labelled, pool.features[list(chosen)]])
            return float(np.linalg.norm(pool.features[:, None] - centers[None], axis=-1).min(1).max())

        found = STRATEGIES["core-set"](pool, 3, np.random.default_rng(0))
        best = min(radius(chosen) for chosen in combinations(range(9), 3))
        assert radius(tuple(found.tolist())) <= 2 * best + 1e-9


def test_distances_of_badge_are_those_of_whole_gradients() -> None:
    """Drawn with the same numbers from gradients that are written out."""
    pool = _pool(1, 20)
    errors = pool.probabilities.copy()
    errors[np.arange(20), errors.argmax(1)] -= 1
    gradients = (errors[:, :, None] * pool.features[:, None]).reshape(20, -1)
    chosen = [int(np.linalg.norm(gradients, axis=1).argmax())]
    generator = np.random.default_rng(7)
    while len(chosen) < 6:
        far = np.min([((gradients - gradients[one]) ** 2).sum(1) for one in chosen], axis=0)
        far[chosen] = 0
        chosen.append(int(generator.choice(20, p=far / far.sum())))
    assert STRATEGIES["badge"](pool, 6, np.random.default_rng(7)).tolist() == chosen


def test_alike_rows_do_not_stop_badge() -> None:
    pool = Pool(np.full((5, 2), 0.5), np.ones((5, 3)), np.ones((1, 3)))
    assert sorted(STRATEGIES["badge"](pool, 5, np.random.default_rng(0)).tolist()) == [0, 1, 2, 3, 4]


def _spec(intents: dict[str, str], output: Path, **fields: Any) -> dict[str, Any]:
    return {
        "base": MINILM, "method": "lora", "data": {**intents, "limit": {"test": 40}}, "start": 8, "per_round": 8,
        "rounds": 1, "training": {"max_steps": 3, "batch_size": 8, "evaluations": 1, "precision": "float32"},
        "strategies": ["random", "margin"], "output": str(output), **fields,
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(intents: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Report:
    return simulate(_spec(intents, tmp_path_factory.mktemp("labelling") / "out"))


def test_a_simulation_and_its_files(report: Report) -> None:
    random, margin = report.curves
    assert random.labels == [8, 16] and margin.scores[0][0] == random.scores[0][0], "they begin with the same rows"
    rounds = [json.loads((report.folder / f"runs/{name}-seed0/round0.json").read_text()) for name in STRATEGIES
              if (report.folder / f"runs/{name}-seed0").is_dir()]  # fmt: skip
    assert rounds[0]["labelled"] == rounds[1]["labelled"] and rounds[0]["next"] != rounds[1]["next"]
    assert not set(rounds[0]["next"]) & set(rounds[0]["labelled"])
    content = json.loads((report.folder / JSON).read_text())
    assert [one["name"] for one in content["curves"]] == ["random", "margin"]
    assert report.shown.number(margin.means[-1]) in (report.folder / HTML).read_text()
    console = Console(width=200, record=True, file=io.StringIO())
    show(report, console)
    assert "minus random" in console.export_text()


def test_rounds_that_are_done_are_not_done_again(
    report: Report, intents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulating, "train_on", lambda *args, **kwargs: pytest.fail("trained again"))
    again = simulate(_spec(intents, report.folder))
    assert again.curves[1].scores == report.curves[1].scores


def test_areas_are_compared_in_pairs_of_seeds() -> None:
    spec = validate(LabellingSpec, {"base": "x", "method": "lora", "data": {"train": "x"}}, "")
    scores = {
        ("random", 0): [(10, 0.5), (20, 0.6), (30, 0.7)], ("random", 1): [(10, 0.3), (20, 0.4), (30, 0.5)],
        ("margin", 0): [(10, 0.5), (20, 0.7), (30, 0.8)], ("margin", 1): [(10, 0.3), (20, 0.5), (30, 0.6)],
    }  # fmt: skip
    found = report_of(spec, "accuracy", "%", True, scores)
    random, margin = found.curves
    assert random.difference is None and random.area == pytest.approx(0.55)
    assert margin.difference == pytest.approx(0.1) and margin.equivalent == ">30"
    assert found.difference(margin) == "+10.0 (+10.0 to +10.0) better"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "causal-lm"}, "can't be chosen by what a head says"),
        ({"rounds": 99}, "800 rows are to be labelled, and there are only 160"),
        ({"strategies": ["random", "random"]}, "one is listed twice"),
        ({"strategies": ["loss"]}, "strategies.0"),
    ],
)
def test_what_makes_no_simulation_is_refused(
    fields: dict[str, Any], said: str, intents: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        simulate(_spec(intents, tmp_path / "out", **fields))


LABELS = list(INTENTS)


def _table(count: int = 6) -> Table:
    rows = [{"text": f"text {number}"} for number in range(count)]
    return Table("rows.csv", rows, {"text": "text"}, range(1, count + 1))


def test_a_label_by_its_number_name_or_beginning() -> None:
    assert choice_of("2", ["one", "two"]) == "two" and choice_of(" TW", ["one", "two"]) == "two"
    assert choice_of("two", ["two", "two hundred"]) == "two" and choice_of("tw", ["two", "two hundred"]) is None
    assert choice_of("3", ["one", "two"]) is None and choice_of("", ["one"]) is None
    assert choice_of("1", ["0", "1"]) == "1", "a name counts before a number"


@settings(deadline=None)
@given(steps=st.lists(st.sampled_from(["label", "skip", "undo"]), max_size=12))
def test_what_is_said_is_in_the_file_and_can_be_taken_back(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("labels") / "answers.csv"
    session = Session(LabelFile(path, _table(), LABELS), 6, range(6), per_round=4)
    model: list[Entry] = []
    for number, step in enumerate(steps):
        if step == "undo":
            assert (session.undo() is None) == (not model)
            model = model[:-1]
        elif session.current is not None:
            name = LABELS[number % 4] if step == "label" else None
            model.append(Entry(session.current, name))
            session.said(name)
        assert session.file.entries == model
        assert sorted([*session.rest, *(one.index for one in model)]) == list(range(6))
        if model:
            assert LabelFile(path, _table(), LABELS).entries == model, "what is read is what was written"


def test_a_model_is_due_after_a_round_of_two_labels(tmp_path: Path) -> None:
    session = Session(LabelFile(tmp_path / "answers.csv", _table(), LABELS), 6, range(6), per_round=2)
    session.said("a")
    session.said("a")
    assert not session.due, "one label alone teaches nothing"
    session.said("b")
    assert session.due
    session.trained([5, 4])
    assert not session.due and session.current == 5
    session.undo()
    assert session.current == 2 and not session.due


def test_labels_of_other_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    LabelFile(path, _table(), LABELS).add(Entry(2, LABELS[0]))
    other = Table("rows.csv", [{"text": "another"}] * 6, {"text": "text"}, range(1, 7))
    with pytest.raises(DataError, match=r"line 2: this is not row 3 of rows\.csv"):
        LabelFile(path, other, LABELS)
    with pytest.raises(DataError, match="there is no label 'card_arrival'"):
        LabelFile(path, _table(), ["x", "y"])


def _typed(lines: list[str]) -> Callable[[str], str]:
    given = iter(lines)

    def ask(prompt: str) -> str:
        line = next(given, None)
        if line is None:
            raise EOFError
        return line

    return ask


def test_a_person_labels_undoes_skips_and_goes_on(intents: dict[str, str], tmp_path: Path) -> None:
    """The labels that are typed are those of the file, so that the last model must know them."""
    with Path(intents["train"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    texts = tmp_path / "texts.csv"
    with texts.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text"])
        writer.writeheader()
        writer.writerows({"text": row["text"]} for row in rows)
    spec = _spec(intents, tmp_path / "out", data={"train": str(texts)}, labels=LABELS, strategies=["margin"], start=14,
                 per_round=12, training={"epochs": 6, "batch_size": 8, "evaluations": 1})  # fmt: skip
    right = {row["text"]: row["label"] for row in rows}
    console = Console(width=300, record=True, file=io.StringIO())
    count = 0

    def ask(prompt: str) -> str:
        nonlocal count
        count += 1
        if count in (1, 3):
            return {1: "/skip", 3: "nonsense"}[count]
        if count > 15:
            raise EOFError
        shown = [line for line in console.export_text(clear=False).splitlines() if line in right]
        return "/undo" if count == 5 else right[shown[-1]]

    path = label(spec, console=console, ask=ask)
    with path.with_name("answers.csv").open(newline="") as stream:
        kept = list(csv.DictReader(stream))
    text = console.export_text(clear=False)
    assert [row["state"] for row in kept].count("skipped") == 1 and "'nonsense' is no label" in text
    labelled = [row for row in kept if row["state"] == "labelled"]
    assert all(right[row["text"]] == row["label"] for row in labelled)
    with path.open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"text": one["text"], "label": one["label"]} for one in labelled]
    assert len(labelled) == 12 - 1 and "training on" not in text
    # The second time it goes on, trains once a round is full, and says what the model takes the next row for.
    console = Console(width=300, record=True, file=io.StringIO())
    count = 10
    label(spec, console=console, ask=ask)
    text = console.export_text(clear=False)
    assert "going on with 11 labels" in text and "training on" in text and "likely: " in text
    found = pefttools.predict(tmp_path / "out/model/artifact", [row["text"] for row in labelled])
    assert sum(one["prediction"] == right[row["text"]] for one, row in zip(found, labelled, strict=True)) >= 9


def test_a_person_needs_labels(intents: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no labels to choose from"):
        label(_spec(intents, tmp_path / "out"), console=Console(), ask=_typed([]))


def test_the_command(intents: dict[str, str], report: Report, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(_spec(intents, report.folder)))
    result = CliRunner().invoke(build_app(), ["label", str(path), "--simulate"])
    assert result.exit_code == 0, result.output
    assert HTML in result.output and "margin" in result.output
    path.write_text(yaml.safe_dump(_spec(intents, tmp_path / "out", labels=LABELS)))
    result = CliRunner().invoke(build_app(), ["label", str(path)], input="1\n/quit\n")
    assert result.exit_code == 0, result.output
    assert "1 label in" in result.output and "label:" not in result.output
