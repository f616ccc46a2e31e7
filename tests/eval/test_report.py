"""The report: what it says, and that nothing in a record can change how it is read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pefttools.errors import DataError
from pefttools.eval.reporting import load_report, print_table, write_report
from pefttools.eval.reporting.words import findings
from tests.eval.sample import EVIL, write_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


def test_rows_and_verdicts(folder: Path) -> None:
    data = load_report(folder)
    rows = {row.label: row for row in data.rows}
    assert [row.score is None for row in data.rows] == [False, False, False, True], "failed runs come last"
    assert rows["full"].verdict == "baseline"
    assert rows["lora"].verdict.startswith("no call")
    assert rows[EVIL].verdict == "worse"
    assert rows["=broken"].verdict == "oom"
    against = rows[EVIL].against
    assert against is not None and against.interval.high < 0 and against.p_holm >= against.p
    interval = rows["lora"].interval
    assert interval is not None and rows["lora"].score is not None
    assert interval.low < rows["lora"].score < interval.high and rows["lora"].interval_kind == "test rows"
    assert any("Not to be told apart from full" in text for text in findings(data))
    assert any("gave no result (oom)" in text for text in findings(data))


def test_an_interval_over_seeds(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=300, seeds=3)
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert lora.interval_kind == "seeds" and len(lora.done) == 3
    assert lora.against is not None and lora.against.seeds == (0, 1, 2)


def test_a_few_rows_are_too_few_to_call_a_winner(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=30)
    data = load_report(tmp_path)
    lora = next(row for row in data.rows if row.label == "lora")
    assert lora.verdict == "no call, interval too wide"
    assert any("too wide to call a winner" in text for text in findings(data))


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
        assert "gpu" not in files[name].read_text(encoding="utf-8").lower()


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


def test_no_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no records"):
        load_report(tmp_path)
