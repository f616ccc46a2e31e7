"""The report: what it says, and that nothing in a record can change how it is read."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pefttools.errors import DataError
from pefttools.eval.comparison import Outcome
from pefttools.eval.records import (
    RUNS,
    Failure,
    Trial,
    read_predictions,
    read_record,
    read_records,
    write_predictions,
    write_record,
)
from pefttools.eval.reporting import formatting, load_report, print_table, write_report
from pefttools.eval.reporting.figures import figures
from pefttools.eval.reporting.findings import findings
from pefttools.eval.reporting.formatting import memory_note
from pefttools.eval.row_values import write_row_values
from pefttools.metrics import Measure
from tests.eval.sample import EVIL, write_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


def change(folder: Path, run: str, **fields: Any) -> None:
    record = read_record(folder / RUNS / run)
    assert record is not None
    write_record(folder / RUNS / run, record.model_copy(update=fields))


def shown(folder: Path, width: int = 200) -> str:
    stream = io.StringIO()
    print_table(load_report(folder), Console(file=stream, width=width, force_terminal=True, color_system=None))
    return stream.getvalue()


def test_rows_and_verdicts(folder: Path) -> None:
    data = load_report(folder)
    rows = {row.label: row for row in data.rows}
    assert [row.score is None for row in data.rows] == [False, False, False, True], "failed runs come last"
    assert rows["full"].verdict == "baseline"
    assert rows["lora"].verdict.startswith("inconclusive")
    assert rows[EVIL].verdict == "one seed: this model is worse"
    assert rows["=broken"].verdict == "oom"
    against = rows[EVIL].against
    assert against is not None and against.interval.high < 0 and against.p < 0.05
    interval = rows["lora"].interval
    assert interval is not None and rows["lora"].score is not None
    assert interval.low < rows["lora"].score < interval.high and rows["lora"].interval_kind == "test rows"
    assert any("No significant difference from full" in text for text in findings(data))
    assert any("gave no result (oom)" in text for text in findings(data))


def test_an_interval_over_seeds(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=300, seeds=3)
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert lora.interval_kind == "seeds and test rows" and len(lora.done) == 3
    assert lora.against is not None and lora.against.seeds == (3, 3)
    scores = [run.score for run in lora.done]
    assert lora.deviation == pytest.approx(statistics.stdev(scores))
    said = findings(data)
    assert any("include the variation between seeds and between rows" in text for text in said)
    assert not any("One seed" in text for text in said)
    worse = next(row for row in data.rows if row.label == EVIL)
    assert worse.verdict == "worse"
    for name, text in _everywhere(tmp_path).items():
        if name != "terminal":
            assert f"{100 * lora.deviation:.2f} points" in text or str(lora.deviation) in text, name


def test_with_one_seed_no_method_is_called_better_or_worse(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=3000)
    data = load_report(tmp_path)
    said = findings(data)
    assert any(text.startswith(f"The one trained model of {EVIL}") or "The one trained model" in text for text in said)
    assert not any(re.search(r"^\S+ is (better|worse) than", text) for text in said)
    assert any("do not show that a method is better or worse" in text for text in said)
    for row in data.rows:
        assert row.verdict not in ("better", "worse", "equal")
    for name, text in _everywhere(tmp_path).items():
        assert "this model is worse" in text or "one trained model" in text, name


def test_a_few_rows_are_too_few_to_call_a_winner(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=30)
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert lora.verdict == "inconclusive"
    assert any("too wide to call either better" in text for text in findings(data))


def test_without_a_baseline(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50, baseline="nothing")
    data = load_report(tmp_path)
    assert all(row.against is None for row in data.rows)
    assert "There is no result of the baseline 'nothing'" in findings(data)[0]
    write_report(tmp_path)


def test_the_pareto_front(folder: Path) -> None:
    front = {row.label for row in load_report(folder).rows if row.pareto_memory}
    assert front == {"full", "lora", EVIL} or front == {"lora", EVIL}


def test_gpu_stands_on_no_figure_of_a_cpu(folder: Path) -> None:
    files = write_report(folder)
    for name in ("markdown", "csv"):
        text = files[name].read_text(encoding="utf-8").lower()
        # A column or a sentence that names a GPU says that it is predicted.
        parts = [part for part in re.split(r"[,.|\n]", text) if "gpu" in part]
        assert all("predict" in part for part in parts), parts


def test_a_prediction_that_was_wrong_says_by_how_much(folder: Path) -> None:
    texts = {row.label: formatting.predicted(row.memory) for row in load_report(folder).rows}
    assert texts["full"].endswith(" MiB (+10 %)")
    assert texts["lora"] == formatting.bytes_(294 * 2**20)
    assert texts["=broken"] == "–"
    assert texts["full"] in write_report(folder)["html"].read_text(encoding="utf-8")


def test_texts_are_escaped(folder: Path) -> None:
    files = write_report(folder)
    page = files["html"].read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;script&gt;document.title" in page
    assert "<script>document" not in files["markdown"].read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text(encoding="utf-8"))))
    assert {row["label"] for row in rows} == {"full", "lora", EVIL, "'=broken"}
    content = json.loads(files["json"].read_text(encoding="utf-8"))
    assert {row["label"] for row in content["rows"]} == {"full", "lora", EVIL, "=broken"}
    assert len(content["runs"]) == 4
    console = Console(record=True, width=200, file=io.StringIO())
    print_table(load_report(folder), console)
    assert EVIL in console.export_text()


def test_a_notebook_shows_the_table_and_what_it_says(folder: Path) -> None:
    outcome = Outcome(folder, {})
    shown = outcome._repr_html_()
    assert EVIL not in shown and "&lt;script&gt;document.title" in shown
    assert shown.count("<tr>") == 1 + 4 and "<th>verdict</th>" in shown
    assert all(html.escape(text) in shown for text in findings(load_report(folder)))
    assert {row["label"]: row["verdict"] for row in outcome.rows()}["full"] == "baseline"
    assert "RunRecord" not in repr(outcome)


def test_no_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no records"):
        load_report(tmp_path)


def test_a_seed_that_gave_no_result_is_said_everywhere(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=100, seeds=3)
    lost: dict[str, Any] = {"status": "oom", "test": {}, "validation": {}, "memory": None, "artifact": None}
    change(tmp_path, "lora-seed2", **lost, error=Failure(type="MemoryError", message="no room left"))
    files = write_report(tmp_path)
    page = files["html"].read_text(encoding="utf-8")
    for text in (
        page[: page.index("Details of each run")],
        files["markdown"].read_text(encoding="utf-8"),
        files["csv"].read_text(encoding="utf-8"),
        shown(tmp_path),
    ):
        assert "no room left" in text
    assert "| 2 of 3 |" in files["markdown"].read_text(encoding="utf-8")


def test_an_error_without_words_is_named_by_its_type(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    change(tmp_path, "broken-seed0", error=Failure(type="MemoryError", message=""))
    assert any(text.endswith("(oom): MemoryError") for text in findings(load_report(tmp_path)))


def test_runs_on_other_test_rows_are_not_paired(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50, seeds=2)
    change(tmp_path, "lora-seed1", data={"test": "2" * 64})
    lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
    assert lora.against is not None and lora.against.seeds == (1, 2)
    change(tmp_path, "lora-seed0", data={"test": "2" * 64})
    lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
    assert lora.against is None and lora.verdict == "not compared"
    said = "lora, seed 0, 1: measured on other rows than full, so not paired."
    assert said in findings(load_report(tmp_path))


def test_a_difference_is_of_the_metric_itself(tmp_path: Path) -> None:
    """In accuracy LoRA is worse; in macro F1, whose rows count otherwise, and in the loss it is better."""
    write_sample(tmp_path, rows=200)
    generator = np.random.default_rng(0)
    own = {"full": generator.normal(0.80, 0.1, 200), "lora": generator.normal(0.86, 0.1, 200)}
    difference = own["lora"].mean() - own["full"].mean()
    for metric, better, measure, said in (
        ("f1_macro", True, Measure.share(), f"{100 * difference:+.1f}"),
        ("rmse", False, Measure("stars", higher_is_better=False), f"{difference:+.3g}"),
    ):
        for run in (tmp_path / RUNS).iterdir():
            change(tmp_path, run.name, primary_metric=metric, greater_is_better=better, measures={metric: measure})
        for label, values in own.items():
            write_row_values(tmp_path / RUNS / f"{label}-seed0", metric, values)
            change(tmp_path, f"{label}-seed0", test={metric: float(values.mean()), "accuracy": 0.1})
        lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
        assert lora.against is not None and lora.score is not None and lora.interval is not None
        assert lora.against.difference == pytest.approx(difference)
        assert lora.verdict == f"one seed: this model is {'better' if better else 'worse'}"
        assert lora.interval.low < lora.score < lora.interval.high and lora.interval_kind == "test rows"
        text = write_report(tmp_path)["markdown"].read_text(encoding="utf-8")
        unit = "points" if better else "stars"
        assert f"difference to full ({unit})" in text and said in text and f"{unit}, p" in text


def test_an_average_over_rare_classes_is_warned_of(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=200)
    for metric, measure, fewest, warned in (
        ("f1_macro", Measure.share(over_classes=True), 9, True),
        ("f1_macro", Measure.share(over_classes=True), 10, False),
        ("accuracy", Measure.share(), 1, False),
    ):
        for run in (tmp_path / RUNS).iterdir():
            change(tmp_path, run.name, primary_metric=metric, measures={metric: measure}, fewest_rows=fewest)
            write_row_values(tmp_path / RUNS / run.name, metric, np.linspace(0, 1, 200))
        said = findings(load_report(tmp_path))
        assert any(f"the rarest class has {fewest} rows" in text for text in said) == warned, metric


def test_without_numbers_of_the_rows_nothing_is_compared(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50, seeds=2)
    for run in (tmp_path / RUNS).iterdir():
        change(tmp_path, run.name, primary_metric="f1_macro")  # as records of 0.1.0 have it
    lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
    assert lora.against is None and lora.verdict == "not compared" and lora.interval_kind == "seeds"
    (tmp_path / RUNS / "lora-seed0" / "row_values.npz").write_bytes(b"PK not so")
    with pytest.raises(DataError, match=r"lora-seed0.row_values\.npz is damaged"):
        load_report(tmp_path)


def test_counted_and_allocated_memory_are_not_compared(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    record = read_record(tmp_path / RUNS / "lora-seed0")
    assert record is not None and record.memory is not None
    of_gpu = {"device": "a card", "source": "allocator", "cuda": {"training_allocated": 1}}
    change(tmp_path, "lora-seed0", memory=record.memory.model_copy(update=of_gpu))
    data = load_report(tmp_path)
    assert "of different kinds" in data.memory_title and "GPU" not in data.memory_title
    assert memory_note(data).startswith("Memory: counted at tensor level for full")
    assert "can't be compared" in memory_note(data)
    assert not any("least memory" in text for text in findings(data))


@pytest.mark.parametrize("label", ["a\\|b", "a|b", "a\rb", "a\nb", "a\u2028b"])
def test_a_label_can_not_leave_its_markdown_cell(tmp_path: Path, label: str) -> None:
    write_sample(tmp_path, rows=50)
    change(tmp_path, "lora-seed0", label=label)
    text = write_report(tmp_path)["markdown"].read_bytes().decode()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 and {row.count("|") for row in rows} == {rows[0].count("|")}


def test_control_codes_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    change(tmp_path, "lora-seed0", label="lo\x1b[2J\x1b]0;title\x07ra")
    change(tmp_path, "broken-seed0", error=Failure(type="x", message="bad\x1b[8mhidden"))
    text = shown(tmp_path)
    assert "\x1b[2J" not in text and "\x1b]0" not in text and "\x1b[8m" not in text
    assert "hidden" in text


@pytest.mark.parametrize("content", ['{"correct": tr', '{"other": 1}', "[]"])
def test_damaged_predictions_are_named(tmp_path: Path, content: str) -> None:
    write_sample(tmp_path, rows=50)
    (tmp_path / RUNS / "lora-seed0" / "predictions.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"lora-seed0.predictions\.jsonl is damaged"):
        load_report(tmp_path)


def test_without_predictions_nothing_is_compared(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    write_predictions(tmp_path / RUNS / "lora-seed0", [])
    lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
    assert lora.score is not None and lora.interval is None and lora.verdict == "not compared"


def test_a_summary_of_another_form_is_no_hindrance(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    (tmp_path / "bench.json").write_text("[]", encoding="utf-8")
    assert load_report(tmp_path).baseline == "full"


def test_numbers_as_labels_are_categories_and_a_diverged_run_keeps_its_curve(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    change(tmp_path, "lora-seed0", label="16")
    change(tmp_path, "broken-seed0", status="diverged", history=[{"step": 1, "loss": 9.0}])
    drawn = {name: json.loads(text) for name, _, text in figures(load_report(tmp_path))}
    assert drawn["parts"]["layout"]["yaxis"]["type"] == "category"
    curve = next(trace for trace in drawn["loss"]["data"] if trace["name"].startswith("=broken"))
    assert curve["y"] == [9.0] and curve["line"]["dash"] == "dot" and curve["showlegend"]


def test_one_run_twice_is_not_two_seeds(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    record = read_record(tmp_path / RUNS / "lora-seed0")
    assert record is not None
    write_record(tmp_path / RUNS / "copy", record.model_copy(update={"id": "copy"}))
    with pytest.raises(DataError, match="one run twice: copy and lora-seed0"):
        load_report(tmp_path)


def test_two_tasks_are_no_comparison(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    change(tmp_path, "lora-seed0", task="causal-lm", primary_metric="exact_match")
    with pytest.raises(DataError, match=r"more than one task: causal-lm \(exact_match\)"):
        load_report(tmp_path)


def test_unequal_training_is_said(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    assert not any("training rows" in text for text in findings(load_report(tmp_path)))
    change(tmp_path, "lora-seed0", samples=9000)
    assert any("training rows: from 3,000 to 9,000" in text for text in findings(load_report(tmp_path)))


def test_validation_is_not_called_test(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=200)
    for run in (tmp_path / RUNS).iterdir():
        right = [entry["correct"] for entry in read_predictions(run)]
        score = {"accuracy": sum(right) / len(right)} if right else {}
        change(tmp_path, run.name, test={}, validation=score, rows={"train": 1000, "validation": 200})
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert lora.interval_kind == "validation rows" and data.measured_rows == 200
    assert any("There is no test split" in text for text in findings(data))
    page = write_report(tmp_path)["html"].read_text(encoding="utf-8")
    assert "200 validation rows" in page and "200 test rows" not in page


def test_an_interval_stays_within_what_is_possible(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=100, seeds=2)
    for seed, score in enumerate((0.8, 1.0)):
        change(tmp_path, f"lora-seed{seed}", test={"accuracy": score})
    interval = next(row for row in load_report(tmp_path).rows if row.label == "lora").interval
    assert interval is not None and (interval.low, interval.high) == (0, 1)


def test_rows_are_told_apart_by_name(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50, seeds=2)
    change(tmp_path, "lora-seed0", label="lora-nf4")
    change(tmp_path, "lora-seed1", label="lora-nf4", variant="nf4")
    names = [row.name for row in load_report(tmp_path).rows]
    assert "lora-nf4" in names and "lora-nf4 (nf4)" in names


def test_all_learning_rates_of_a_row_are_shown(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50, seeds=2)
    change(tmp_path, "lora-seed1", learning_rate=5e-4)
    files = write_report(tmp_path)
    for name in ("html", "csv"):
        assert "0.0005, 0.001" in files[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("label", ["__b__", "_c_", "**d**", "`e`", "![f](g)", "~~h~~", "exact_match"])
def test_a_label_is_no_markdown(tmp_path: Path, label: str) -> None:
    from markdown_it import MarkdownIt

    write_sample(tmp_path, rows=50)
    change(tmp_path, "lora-seed0", label=label)
    text = write_report(tmp_path)["markdown"].read_text(encoding="utf-8")
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    assert f"<td>{label}</td>" in page


@pytest.mark.parametrize("content", ['{"name": null, "baseline": null}', '{"name": "\\ud800"}'])
def test_odd_names_of_a_comparison(tmp_path: Path, content: str) -> None:
    write_sample(tmp_path, rows=50)
    (tmp_path / "bench.json").write_text(content, encoding="utf-8")
    data = load_report(tmp_path)
    assert data.title in (tmp_path.name, "?") and data.baseline == "full"
    write_report(tmp_path)


def test_a_figure_that_is_no_number_ends_no_report(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    path = tmp_path / RUNS / "lora-seed0" / "record.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"loss": 2.0', '"loss": NaN', 1), encoding="utf-8")
    assert "NaN" not in write_report(tmp_path)["json"].read_text(encoding="utf-8")


def test_a_close_call_is_not_laid_to_a_wide_interval(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=100)
    evil = next(record.id for record in read_records(tmp_path) if record.label == EVIL)
    for run, wrong in (("full-seed0", 0), ("lora-seed0", 6), (evil, 0)):
        write_predictions(tmp_path / RUNS / run, [{"correct": i >= wrong} for i in range(100)])
        change(tmp_path, run, test={"accuracy": 1 - wrong / 100})
    said = findings(load_report(tmp_path))
    assert any("Close calls against full (points): lora -6.0" in text for text in said)
    assert not any("No significant difference" in text and "lora" in text for text in said)


def test_runs_of_an_older_spec_are_left_out(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    spec = {"name": "x", "baseline": "full", "runs": ["full-seed0", "lora-seed0"]}
    (tmp_path / "bench.json").write_text(json.dumps(spec), encoding="utf-8")
    data = load_report(tmp_path)
    assert {row.label for row in data.rows} == {"full", "lora"}
    assert any("2 runs in the folder belong to an older spec" in text for text in findings(data))


def _everywhere(folder: Path) -> dict[str, str]:
    """The report in every format, by name; the page without the details of single runs."""
    found = {name: path.read_text(encoding="utf-8") for name, path in write_report(folder).items()}
    found["html"] = found["html"][: found["html"].index("Details of each run")]
    return {**found, "terminal": shown(folder, width=400)}


def test_what_did_not_learn_is_not_called_worse(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=500)
    write_predictions(tmp_path / RUNS / "lora-seed0", [{"correct": i % 4 == 0} for i in range(500)])
    change(tmp_path, "lora-seed0", test={"accuracy": 0.25})
    lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
    assert lora.verdict == "one seed: this model is worse"
    change(tmp_path, "lora-seed0", did_not_learn="every validation row gets the same answer, 'x'")
    lora = next(row for row in load_report(tmp_path).rows if row.label == "lora")
    assert lora.verdict == "did not learn"
    said = findings(load_report(tmp_path))
    assert not any("lora is worse" in text for text in said)
    assert any(text.startswith("lora did not learn: every validation row") for text in said)
    for name, text in _everywhere(tmp_path).items():
        assert "did not learn" in text, name


def test_nothing_is_better_than_a_baseline_that_did_not_learn(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=500)
    change(tmp_path, "full-seed0", did_not_learn="validation accuracy is 0.1, no better than 0.2")
    rows = {row.label: row for row in load_report(tmp_path).rows}
    assert rows["full"].verdict == "baseline, did not learn"
    assert rows["lora"].verdict == "not compared: the baseline did not learn"
    said = findings(load_report(tmp_path))
    assert any("full did not learn: nothing can be compared with it" in text for text in said)
    assert not any("than full" in text or "from full" in text for text in said)


def test_one_seed_of_several_that_did_not_learn_is_named(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=100, seeds=3)
    change(tmp_path, "lora-seed1", did_not_learn="because")
    rows = {row.label: row for row in load_report(tmp_path).rows}
    assert rows["lora"].verdict != "did not learn"
    assert "lora, seed 1: did not learn: because." in findings(load_report(tmp_path))


def test_an_unfinished_comparison_says_how_far_it_is(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    ids = ["full-seed0", "lora-seed0", "lora-seed1", *(f"ia3-seed{seed}" for seed in range(5))]
    rows = {one: [one.partition("-")[0], "float32"] for one in ids}
    spec = {"name": "x", "baseline": "full", "runs": ids, "rows": rows}
    (tmp_path / "bench.json").write_text(json.dumps(spec), encoding="utf-8")
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert formatting.runs(lora) == "1 of 2"
    texts = _everywhere(tmp_path)
    for name in ("html", "markdown", "json", "terminal"):
        assert "2 of 8 planned runs" in texts[name], name
    assert json.loads(texts["json"])["runs_missing"] == ids[2:]
    planned_runs = {row["label"]: row["planned_runs"] for row in csv.DictReader(io.StringIO(texts["csv"]))}
    assert planned_runs == {"full": "1", "lora": "2"}


def test_every_trial_is_shown_and_an_edge_is_said(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    trials = [
        Trial(learning_rate=1e-4, status="ok", score=0.5, loss=1.25, steps=10, did_not_learn="because"),
        Trial(learning_rate=3e-4, status="ok", score=0.6, loss=1.125, steps=10),
        Trial(learning_rate=1e-3, status="ok", score=0.75, loss=0.875, steps=10, beyond=True, chosen=True),
    ]
    change(tmp_path, "lora-seed0", trials=trials)
    texts = _everywhere(tmp_path)
    for name in ("html", "markdown", "csv"):
        for part in ("0.0001", "0.0003", "1.1250", "0.7500", "beyond the grid", "the largest tried", "because"):
            assert part in texts[name], (name, part)
    assert "is the largest of the 3 tried; a larger one may be better" in texts["terminal"]
    inside = [trial.model_copy(update={"chosen": trial.learning_rate == 3e-4}) for trial in trials]
    change(tmp_path, "lora-seed0", trials=inside)
    assert not any("may be better" in text for text in findings(load_report(tmp_path)))


def test_cpu_time_is_beside_wall_time_and_a_busy_machine_is_flagged(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    assert not any("busy" in text for text in findings(load_report(tmp_path)))
    change(tmp_path, "lora-seed0", seconds={"train": 20.0, "train_cpu": 37.0}, busy_share=0.45)
    texts = _everywhere(tmp_path)
    assert "37 s" in texts["markdown"] and "37 s" in texts["terminal"] and "37 s" in texts["html"]
    assert "37.0" in texts["csv"]
    assert "The machine was busy with other work" in texts["markdown"] and "lora-seed0 (45 %)" in texts["markdown"]


def test_less_may_be_better(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=50)
    for run, loss in (("full-seed0", 0.5), ("lora-seed0", 0.4)):
        change(tmp_path, run, primary_metric="loss", greater_is_better=False, test={"loss": loss})
    for run in (tmp_path / RUNS).iterdir():
        change(tmp_path, run.name, primary_metric="loss", greater_is_better=False)
    data = load_report(tmp_path)
    scored = [row for row in data.rows if row.score is not None]
    assert [row.label for row in scored] == ["lora", "full"]
    assert next(row for row in scored if row.label == "lora").pareto_parameters
    assert not next(row for row in scored if row.label == "full").pareto_parameters


def test_scores_per_class(tmp_path: Path) -> None:
    from pefttools.eval.reporting.classes import reports
    from pefttools.tasks.labels.classes import class_report

    write_sample(tmp_path, rows=200)
    data = load_report(tmp_path)
    found = {one["id"]: one for one in reports(data)}
    assert set(found) == {record.id for record in data.records if record.status == "ok"}
    name = next(iter(found))
    lines = (tmp_path / "runs" / name / "predictions.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    answers, truth = [one["prediction"] for one in entries], [one["reference"] for one in entries]
    wanted = class_report(answers, truth, sorted({*answers, *truth}))
    assert found[name]["classes"] == sorted(wanted.classes, key=lambda one: (one.f1, one.label))
    page = write_report(tmp_path)["html"].read_text()
    assert "Scores per class" in page and f"{wanted.classes[0].f1:.3f}" in page


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_is_said_of_methods_or_of_models(seeds: int, tmp_path: Path) -> None:
    write_sample(tmp_path, rows=3000, seeds=seeds)
    for seed in range(seeds):
        answers = read_predictions(tmp_path / RUNS / f"full-seed{seed}")
        write_predictions(tmp_path / RUNS / f"lora-seed{seed}", answers)
        score = sum(entry["correct"] for entry in answers) / len(answers)
        change(tmp_path, f"lora-seed{seed}", test={"accuracy": score})
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert lora.verdict == ("equal" if seeds > 1 else "one seed: this model is equal")
    said = next(text for text in findings(data) if "to within 1 point, " in text)
    assert said.startswith("Equal to full" if seeds > 1 else "Trained models equal to that of full")
    page = write_report(tmp_path)["html"].read_text(encoding="utf-8")
    assert ("Between seeds" in page) == (seeds > 1)


def test_runs_that_shared_a_card_are_named(tmp_path: Path) -> None:
    write_sample(tmp_path)
    assert not any("shared one GPU" in text for text in findings(load_report(tmp_path)))
    change(tmp_path, "lora-seed0", hardware={"gpu": "H100", "jobs": 2, "card": "0", "card_shared": True})
    (said,) = [text for text in findings(load_report(tmp_path)) if "shared one GPU" in text]
    assert "lora-seed0" in said and "full-seed0" not in said
