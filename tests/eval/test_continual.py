"""Continual learning: stages one after the other, what is forgotten, and what is done about it."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from pefttools.cli.main import build_app
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.eval import continual
from pefttools.eval.continual_learning import measures
from pefttools.eval.continual_learning import run as running
from pefttools.eval.continual_learning.buffer import Balanced, Reservoir
from pefttools.eval.continual_learning.data import Report
from pefttools.eval.continual_learning.plan import plan
from pefttools.eval.continual_learning.report import HTML, JSON
from pefttools.eval.continual_learning.run import prepared
from pefttools.eval.continual_learning.spec import ContinualSpec
from pefttools.eval.continual_learning.terminal import show
from pefttools.eval.row_files import read_rows
from pefttools.recipe import validate
from tests.conftest import INTENTS, MINILM


def test_measures_of_a_matrix() -> None:
    matrix = [[0.9, 0.1, 0.2], [0.7, 0.8, 0.1], [0.5, 0.75, 0.6]]
    alone = [0.9, 0.7, 0.7]
    assert measures.final_average(matrix, alone, True) == pytest.approx((0.5 + 0.75 + 0.6) / 3)
    assert measures.average_on_the_way(matrix, alone, True) == pytest.approx((0.9 + 0.75 + (0.5 + 0.75 + 0.6) / 3) / 3)
    assert measures.forgetting(matrix, alone, True) == pytest.approx((0.4 + 0.05) / 2)
    assert measures.backward_transfer(matrix, alone, True) == pytest.approx((-0.4 - 0.05) / 2)
    assert measures.forward_transfer(matrix, alone, True) == pytest.approx((0.1 - 0.1) / 2)
    # Of a loss, what has grown is forgotten.
    assert measures.forgetting(matrix, alone, False) == pytest.approx(-(0.2 + 0.05) / 2)
    assert measures.backward_transfer(matrix, alone, False) == pytest.approx((0.4 + 0.05) / 2)


def test_the_best_score_on_the_way_is_what_is_forgotten_from() -> None:
    matrix = [[0.6, None, None], [0.9, 0.8, None], [0.7, 0.8, 0.5]]
    assert measures.forgetting(matrix, [0.5] * 3, True) == pytest.approx((0.2 + 0.0) / 2)
    assert measures.backward_transfer(matrix, [0.5] * 3, True) == pytest.approx((0.1 + 0.0) / 2)
    assert measures.forgetting([[0.5, 0.6]], [0.5] * 2, True) is None


def test_intervals_are_over_orders_and_differences_in_pairs() -> None:
    values = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.8, (1, 1): 0.8, (2, 0): 0.7, (2, 1): 0.7}
    found = measures.summary(values, {key: value - 0.1 for key, value in values.items()})
    units = [0.6, 0.8, 0.7]
    half = 4.302653 * (0.1 / math.sqrt(3))  # t of two degrees of freedom
    assert found.mean == pytest.approx(0.7) and found.sequences == 6
    assert found.interval is not None and found.interval.low == pytest.approx(sum(units) / 3 - half, abs=1e-5)
    assert found.difference == pytest.approx(0.1)
    assert found.difference_interval is not None and found.difference_interval.high == pytest.approx(0.1)
    one = measures.summary({(0, 0): 0.5, (0, 1): 0.7}, None)
    assert one.interval is not None and one.interval.high - one.mean == pytest.approx(12.7062 * 0.1, rel=1e-4)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcde"), max_size=80), st.integers(1, 12), st.integers(0, 5))
def test_a_balanced_buffer_has_as_many_rows_of_each_class(classes: list[str], size: int, seed: int) -> None:
    rows = list(enumerate(classes))
    buffer: Balanced[tuple[int, str]] = Balanced(size, seed, lambda row: row[1])
    for start in range(0, len(rows), 7):
        buffer.add(rows[start : start + 7])
    kept, there = Counter(name for _, name in buffer.rows), Counter(classes)
    assert len(set(buffer.rows)) == len(buffer.rows) == min(size, len(rows)) and set(buffer.rows) <= set(rows)
    # Nobody has two more than another who would have had further rows.
    for name, count in there.items():
        if kept[name] < count:
            assert all(kept[name] >= kept[other] - 1 for other in kept)


def test_a_reservoir_keeps_every_row_with_the_same_chance() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        reservoir: Reservoir[int] = Reservoir(5, seed)
        reservoir.add(range(12))
        reservoir.add(range(12, 20))
        assert len(set(reservoir.rows)) == 5
        counts.update(reservoir.rows)
    # 500 expected of each; five standard deviations
    assert all(abs(counts[row] - 500) < 5 * math.sqrt(2000 * 0.25 * 0.75) for row in range(20))


def _spec(intents: dict[str, str], output: Path, **fields: Any) -> dict[str, Any]:
    return {
        "name": "four intents", "base": MINILM, "method": "lora", "data": intents, "parts": 2,
        "strategies": ["plain", {"name": "replay", "rows": 40}, "alone"],
        "training": {"max_steps": 8, "batch_size": 16, "evaluations": 1, "precision": "float32"},
        "output": str(output), **fields,
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(intents: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Report:
    return continual(_spec(intents, tmp_path_factory.mktemp("continual") / "out"))


def test_what_is_forgotten_and_what_replay_saves(report: Report) -> None:
    plain, replay, alone = report.strategies
    (matrix,) = plain.matrices.values()
    assert matrix[0][0] is not None and matrix[0][0] > 0.9 and matrix[0][1] == 0.0, "labels that it has not seen"
    assert matrix[1][1] is not None and matrix[1][1] > 0.9 and matrix[1][0] is not None and matrix[1][0] < 0.7
    forgotten = [row.values["forgetting"].mean for row in (plain, replay)]
    assert forgotten[0] > 0.3 and forgotten[1] < forgotten[0] - 0.2
    assert alone.values["forgetting"].mean == 0.0
    assert replay.values["forgetting"].difference == pytest.approx(forgotten[1] - forgotten[0])


def test_its_files_and_table(report: Report) -> None:
    content = json.loads((report.folder / JSON).read_text())
    assert [row["label"] for row in content["strategies"]] == ["plain", "replay", "alone"]
    (matrix,) = content["strategies"][0]["matrices"]
    assert matrix["scores"] == next(iter(report.strategies[0].matrices.values()))
    page = (report.folder / HTML).read_text()
    assert "class-incremental" in page and report.shown.number(report.strategies[1].values["forgetting"].mean) in page
    console = Console(width=200, record=True, file=io.StringIO())
    show(report, console)
    text = console.export_text()
    assert "forgetting" in text and "Difference from plain" in text


def test_rows_that_are_kept_are_of_earlier_stages(report: Report) -> None:
    (path,) = (report.folder / "data").glob("balanced-40-1-seed0.parquet")
    first = {row["text"] for row in read_rows(report.folder / "data" / _stage_file(report, 0))}
    kept = read_rows(path)
    assert len(kept) == 40 and {row["text"] for row in kept} <= first
    assert sorted(Counter(row["label"] for row in kept).values()) == [20, 20]


def _stage_file(report: Report, number: int) -> str:
    (name,) = [one.name for one in (report.folder / "data").glob(f"part-{number + 1}-*-train.parquet")]
    return name


@pytest.mark.slow
def test_what_is_done_is_not_done_again(
    report: Report, intents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    plain = running.do
    monkeypatch.setattr(
        running, "do", lambda study, work, reporter: done.append(work.id) or plain(study, work, reporter)
    )
    again = continual(_spec(intents, report.folder))
    assert done == [] and again.strategies[0].matrices == report.strategies[0].matrices
    # Another strategy needs only its own training.
    more = ["plain", {"name": "l2-sp", "alpha": 1.0}]
    continual(_spec(intents, report.folder, strategies=more))
    assert done == ["l2-sp-1.2-seed0"]
    # Where results were kept without the models, those that the rest needs are made again.
    done.clear()
    shutil.rmtree(report.folder / "runs" / _run_of(report, "alone-part-1") / "artifact")
    continual(_spec(intents, report.folder, strategies=["plain", {"name": "l2-sp", "label": "more", "alpha": 2.0}]))
    assert done == [_run_of(report, "alone-part-1"), "more-1.2-seed0"]


def _run_of(report: Report, beginning: str) -> str:
    (found,) = [one.name for one in (report.folder / "runs").iterdir() if one.name.startswith(beginning)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_every_strategy_in_two_processes(scenario: str, intents: dict[str, str], tmp_path: Path) -> None:
    names = ["plain", "ewc", "l2-sp", "replay", "lwf", {"name": "merged", "rank": 8}, "routed", "alone", "joint"]
    spec = _spec(intents, tmp_path / "out", strategies=names, orders=2, scenario=scenario)
    found = continual(spec, jobs=2)
    assert not any("failed" in note or "could not be made" in note for note in found.notes)
    by_label = {row.label: row for row in found.strategies}
    assert all(len(row.matrices) == 2 for row in found.strategies)
    bound = by_label["alone"].values["average at the end"].mean
    assert bound > 0.9
    assert by_label["joint"].values["average at the end"].mean > 0.8 and "forgetting" not in by_label["joint"].values
    assert by_label["routed"].values["average at the end"].mean > 0.8, "four intents are easily told apart"
    if scenario == "class-incremental":
        for label in ("replay", "lwf"):
            assert by_label[label].values["forgetting"].mean < by_label["plain"].values["forgetting"].mean


@pytest.mark.slow
def test_domains_of_another_task(tmp_path: Path) -> None:
    """Numbers instead of labels: every strategy that needs none works."""
    stages = []
    for name, sign in (("up", 1), ("down", -1)):
        path = tmp_path / f"{name}.csv"
        rows = [f"{name} {word},{sign * number}" for number, word in enumerate(("bad", "fair", "good", "great"))]
        path.write_text("text,number\n" + "\n".join(rows * 12))
        stages.append({"name": name, "data": {"train": str(path), "validation": 0.2, "test": 0.2}})
    spec = {
        "base": MINILM, "method": "lora", "task": "regression", "scenario": "domain-incremental", "stages": stages,
        "strategies": ["plain", {"name": "replay", "rows": 10, "keep": "reservoir"}, "ewc", "routed", "alone"],
        "training": {"max_steps": 8, "batch_size": 16}, "output": str(tmp_path / "out"),
    }  # fmt: skip
    found = continual(spec)
    assert all(row.matrices for row in found.strategies)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"parts": 3}, "4 labels can't be dealt into 3 parts"),
        ({"parts": None}, "data and parts belong together"),
        ({"orders": 3}, "2 stages can be shifted 2 times"),
        ({"orders": [[1, 1]]}, "does not name each of the stages 1 to 2 once"),
        ({"scenario": "domain-incremental"}, "parts have different labels"),
        ({"strategies": ["plain", "plain"]}, "two strategies have the label 'plain'"),
        ({"strategies": [{"name": "replay", "rows": 0}]}, "strategies.0: rows"),
    ],
)
def test_what_makes_no_study_is_refused(
    fields: dict[str, Any], said: str, intents: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        continual(_spec(intents, tmp_path / "out", **fields))


def test_a_strategy_that_there_is_none_of(intents: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown strategy 'reply'"):
        continual(_spec(intents, tmp_path / "out", strategies=["reply"]))


def test_stages_whose_labels_contradict_the_scenario(intents: dict[str, str], tmp_path: Path) -> None:
    stages = [{"name": name, "data": intents} for name in ("one", "two")]
    fields: dict[str, Any] = {"data": None, "parts": None, "stages": stages}
    with pytest.raises(ConfigError, match="is in 'one' and in 'two'"):
        continual(_spec(intents, tmp_path / "out", **fields))
    study = prepared(
        validate(ContinualSpec, _spec(intents, tmp_path / "out", **fields, scenario="domain-incremental"), "")
    )
    assert study.labels == tuple(sorted(INTENTS)) and study.groups([0, 1]) == []


def test_each_stage_is_once_at_each_place_and_chains_share_their_first_steps(
    intents: dict[str, str], tmp_path: Path
) -> None:
    spec = validate(ContinualSpec, _spec(intents, tmp_path / "out", orders=2, strategies=["plain", "ewc"]), "")
    assert spec.sequences() == [(0, 1), (1, 0)]
    works = plan(prepared(spec))
    assert sorted(work.id.partition("-seed")[0] for work in works if not work.id.startswith("alone")) == [
        "ewc-1.2", "ewc-2.1", "plain-1.2", "plain-2.1",
    ]  # fmt: skip
    assert len(works) == 6 and all(len(work.needs) == 1 for work in works if len(work.learned) == 2)


def test_the_command_says_where_its_files_are(intents: dict[str, str], report: Report, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(_spec(intents, report.folder)))
    result = CliRunner().invoke(build_app(), ["continual", str(path)])
    assert result.exit_code == 0, result.output
    assert HTML in result.output and "replay" in result.output
