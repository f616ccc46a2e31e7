"""Conditions in a comparison: records, numbers of rows, the report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pefttools.errors import ConfigError
from pefttools.eval.comparison import bench
from pefttools.eval.records import RUNS, RunRecord, UnderCondition, read_record, read_records, write_record
from pefttools.eval.reporting import load_report, print_table, write_report
from pefttools.eval.reporting.findings import findings
from pefttools.eval.reporting.markdown import to_markdown
from pefttools.eval.row_values import read_row_values, write_row_values
from pefttools.eval.spec import BenchSpec, plan
from pefttools.eval.statistics import Models, compare, compare_all, holm
from pefttools.progress import SilentReporter
from pefttools.recipe import validate
from tests.eval.sample import write_sample

TYPOS, ATTACK = "typos in 10 % of words", "fgm (epsilon 0.1) <b>"


def harden(folder: Path, shares: dict[str, dict[str, float]]) -> None:
    """Give the runs of a sample scores under conditions.

    Args:
        folder: of the comparison.
        shares: condition -> label -> share of right rows.
    """
    for record in read_records(folder):
        if record.status != "ok":
            continue
        plain = read_row_values(folder / RUNS / record.id, "accuracy")
        assert plain is not None
        random = np.random.default_rng(record.seed)
        under = {
            title: plain * (random.random(len(plain)) < own.get(record.label, 1.0)) for title, own in shares.items()
        }
        write_row_values(folder / RUNS / record.id, "accuracy", plain, under)
        found = {
            title: UnderCondition(settings={}, metrics={"accuracy": float(values.mean())}, seconds=1.0)
            for title, values in under.items()
        }
        write_record(folder / RUNS / record.id, record.model_copy(update={"robustness": found}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hardened")
    write_sample(folder, seeds=3, rows=600)
    harden(folder, {TYPOS: {"full": 0.9, "lora": 0.9}, ATTACK: {"full": 0.3, "lora": 0.6}})
    return folder


def test_records_and_numbers_of_rows_come_back(folder: Path, tmp_path: Path) -> None:
    record = read_record(folder / RUNS / "lora-seed0")
    assert record is not None and list(record.robustness) == [TYPOS, ATTACK]
    values = read_row_values(folder / RUNS / "lora-seed0", "accuracy", ATTACK)
    assert values is not None and values.mean() == pytest.approx(record.robustness[ATTACK].metrics["accuracy"])
    plain = read_row_values(folder / RUNS / "lora-seed0", "accuracy")
    assert plain is not None and plain.mean() == pytest.approx(record.test["accuracy"]) and (plain >= values).all()
    assert read_row_values(folder / RUNS / "lora-seed0", "accuracy", "another") is None
    assert read_row_values(folder / RUNS / "lora-seed0", "loss", ATTACK) is None


def test_older_records_are_read_as_they_are(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=60)
    path = tmp_path / RUNS / "lora-seed0" / "record.json"
    content = json.loads(path.read_text())
    del content["robustness"]
    path.write_text(json.dumps(content))
    assert RunRecord.model_validate(content).robustness == {}
    assert load_report(tmp_path).robustness == ()
    assert "Under " not in to_markdown(load_report(tmp_path))


def test_each_method_is_compared_under_each_condition(folder: Path) -> None:
    data = load_report(folder)
    assert [under.condition for under in data.robustness] == [TYPOS, ATTACK]
    for under in data.robustness:
        assert [row.name for row in under.rows] == [row.name for row in data.rows if row.score is not None]
        for row, plain in zip(under.rows, data.rows, strict=False):
            assert row.plain == plain.score and row.interval is not None and row.score is not None
            assert row.interval.low < row.score < row.interval.high and row.interval_kind == "seeds and test rows"
            assert row.is_baseline or row.against is not None
    easy, hard = ({row.label: row for row in under.rows} for under in data.robustness)
    assert hard["lora"].verdict == "better" and hard["full"].verdict == "baseline"
    against = hard["lora"].against
    assert against is not None and against.interval.low > 0 and against.seeds == (3, 3)
    assert against.difference == pytest.approx((hard["lora"].score or 0) - (hard["full"].score or 0))
    assert easy["lora"].verdict in ("inconclusive", "equal")
    said = findings(data)
    assert any(text.startswith(f"Under {ATTACK} lora is better than full: difference +") for text in said)
    assert any(f"Under {TYPOS} no significant difference from full: lora " in text for text in said)
    assert any("Holm-corrected together (4)" in text for text in said)


def test_every_form_of_the_report_has_it(folder: Path) -> None:
    files = {name: path.read_text() for name, path in write_report(folder).items()}
    stream = io.StringIO()
    print_table(load_report(folder), Console(file=stream, width=200, color_system=None))
    data = load_report(folder)
    lora = next(row for row in data.robustness[1].rows if row.label == "lora")
    score = f"{100 * (lora.score or 0):.1f} %"
    assert "<h2>Robustness</h2>" in files["html"] and "Under fgm (epsilon 0.1) &lt;b&gt;</h3>" in files["html"]
    assert "(epsilon 0.1) <b>" not in files["html"], "a title is data"
    for text in (files["html"], files["markdown"], stream.getvalue()):
        assert score in text and "Under typos in 10 % of words" in text
    assert "## Under fgm (epsilon 0.1) &lt;b&gt;" in files["markdown"]
    row = next(one for one in csv.DictReader(io.StringIO(files["csv"])) if one["label"] == "lora")
    assert float(row[f"{ATTACK}: accuracy"]) == pytest.approx(lora.score) and row[f"{ATTACK}: verdict"] == "better"
    content = json.loads(files["json"])
    assert [one["condition"] for one in content["robustness"]] == [TYPOS, ATTACK]
    (own,) = [one for one in content["robustness"][1]["rows"] if one["label"] == "lora"]
    assert own["accuracy"] == pytest.approx(lora.score) and own["difference_low"] > 0 and own["plain"] > own["accuracy"]


def test_a_run_that_lacks_a_condition_counts_in_the_others(tmp_path: Path) -> None:
    write_sample(tmp_path, seeds=2, rows=300)
    harden(tmp_path, {TYPOS: {}, ATTACK: {"full": 0.5}})
    record = read_record(tmp_path / RUNS / "lora-seed1")
    assert record is not None
    kept = {TYPOS: record.robustness[TYPOS]}
    write_record(tmp_path / RUNS / "lora-seed1", record.model_copy(update={"robustness": kept}))
    easy, hard = ({row.label: row for row in under.rows} for under in load_report(tmp_path).robustness)
    assert len(easy["lora"].done) == 2 and len(hard["lora"].done) == 1
    assert hard["lora"].against is not None and hard["lora"].against.seeds == (1, 2)
    assert hard["lora"].verdict.startswith("one seed: this model is better")


def test_p_values_of_several_groups_are_corrected_together() -> None:
    random = np.random.default_rng(0)

    def models(share: float) -> Models:
        return Models.of((random.random((3, 400)) < share).astype(float), (0.0, 1.0))

    groups = [({"a": models(0.85), "b": models(0.8)}, models(0.8)), ({"a": models(0.9)}, models(0.7))]
    together = compare_all(groups, 0.01)
    alone = [compare(*group, 0.01) for group in groups]
    raw = [one.p for found, _ in (compare({name: m}, base) for own, base in groups for name, m in own.items())
           for one in found.values()]  # fmt: skip
    assert len(raw) == 3
    found = [one for own, _ in together for one in own.values()]
    singly = [one for own, _ in alone for one in own.values()]
    assert [one.interval for one in found] == [one.interval for one in singly]
    assert all(one.p >= other.p for one, other in zip(found, singly, strict=True))
    # The variance between seeds is that of each group, so the raw values are those of groups of one where it is.
    assert found[2].p == pytest.approx(min(1.0, 3 * singly[2].p)) or found[2].p > singly[2].p
    assert holm([0.01, 0.02]) == [0.02, 0.02]


def _spec(base: str, data: dict[str, str], output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": base, "methods": [{"name": "lora", "r": 2}, {"name": "lora", "label": "hard", "objective": "fgm"}],
        "task": {"name": "sequence-classification", "head": "mean"}, "data": dict(data), "baseline": "lora",
        "training": {"epochs": 1, "batch_size": 16}, "output": str(output), "memory_check": False,
        "robustness": [{"typos": 0.5}, {"attack": {"name": "fgm", "epsilon": 0.2}}], **changes,
    }  # fmt: skip


def test_conditions_are_a_part_of_what_a_run_is(tmp_path: Path) -> None:
    def runs(**changes: Any) -> list[str]:
        given = _spec("base", {"train": "train.csv"}, tmp_path, **changes)
        return [run.hash({}) for run in plan(validate(BenchSpec, given, "spec"))]

    assert runs() != runs(robustness=[]) != runs(robustness=[{"typos": 0.1}])
    assert runs(robustness=[{"attack": "fgm"}]) == runs(robustness=[{"attack": {"name": "fgm", "epsilon": 0.1}}])
    with pytest.raises(ConfigError, match="two conditions are called"):
        runs(robustness=[{"typos": 0.1}, {"typos": 0.1, "seed": 0}])
    assert len(runs(robustness=[{"typos": 0.1}, {"typos": 0.1, "seed": 2}])) == len(runs())
    with pytest.raises(ConfigError, match="seed says which words get typos"):
        runs(robustness=[{"attack": "fgm", "seed": 2}])
    with pytest.raises(ConfigError, match="is not an attack"):
        runs(robustness=[{"attack": "focal"}])


def test_a_task_that_can_not_be_attacked_is_refused_before_anything_runs(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    given = _spec(tiny_bert, intents, tmp_path / "out", methods=["lora"], task={"name": "masked-lm"})
    with pytest.raises(ConfigError, match=r"robustness, 'typos in 50 % of words': the task 'masked-lm'"):
        bench(given)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_comparison_under_conditions(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    outcome = bench(_spec(tiny_bert, intents, tmp_path), reporter=SilentReporter())
    for run, record in outcome.records.items():
        typos, attack = record.robustness.values()
        assert list(record.robustness) == ["typos in 50 % of words", "fgm (epsilon 0.2)"]
        assert attack.settings == {"attack": {"name": "fgm", "epsilon": 0.2}} and attack.changed is None
        assert typos.changed is not None and typos.changed.startswith("typos in ")
        assert attack.metrics["loss"] > record.test["loss"] and typos.metrics.keys() == record.test.keys()
        for title, own in record.robustness.items():
            values = read_row_values(tmp_path / RUNS / run, "accuracy", title)
            assert values is not None and len(values) == record.rows["test"]
            assert values.mean() == pytest.approx(own.metrics["accuracy"])
    assert "Robustness" in outcome.report["html"].read_text()
    again = bench(_spec(tiny_bert, intents, tmp_path), reporter=SilentReporter())
    assert {run: one.created for run, one in again.records.items()} == {
        run: one.created for run, one in outcome.records.items()
    }
    _same_as_evaluate(tmp_path, outcome.records, intents["test"])


def _same_as_evaluate(folder: Path, records: dict[str, RunRecord], test: str) -> None:
    """The command for one artifact gives what the comparison has."""
    import pefttools

    evaluate: Callable[..., Any] = pefttools.evaluate
    for run, record in records.items():
        typos, attack = record.robustness.values()
        artifact = folder / RUNS / run / "artifact"
        assert evaluate(artifact, test, typos=0.5).metrics == pytest.approx(typos.metrics, rel=1e-4)
        found = evaluate(artifact, test, attack={"name": "fgm", "epsilon": 0.2}).metrics
        assert found["loss"] == pytest.approx(attack.metrics["loss"], rel=1e-3)
