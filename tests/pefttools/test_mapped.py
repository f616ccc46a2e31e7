"""Rows and examples in memory-mapped files: what comes back is what went in, whatever the size."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pefttools.bases import locate_base
from pefttools.data import DataConfig, Splits, Table, load_splits, mapped, read_table
from pefttools.data.arrow_examples import ExampleCodec
from pefttools.data.arrow_rows import RowCodec
from pefttools.data.mapped import Chosen, MappedItems, found, kept
from pefttools.errors import DataError
from pefttools.recipe import choose_task
from pefttools.tasks.cuts import cuts_of
from pefttools.training.examples import Examples

ROLES = {"text": True, "label": True}
#: halves of characters, too
_TEXT = st.text(st.characters())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Anything over three items goes into a file, in slices of two."""
    monkeypatch.setattr(mapped, "SMALL", 3)
    monkeypatch.setattr(mapped, "_SLICE", 2)


@given(st.lists(st.fixed_dictionaries({"a": JSON, "b": JSON}), min_size=4, max_size=12), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_rows_come_back_as_they_were(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    items = kept(iter(rows), lambda _: RowCodec(["a", "b"]))
    assert isinstance(items, MappedItems)
    assert list(items) == rows and [items[index] for index in range(len(rows))] == rows
    assert items[-1] == rows[-1] and items[1:3] == rows[1:3]
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
    chosen = Chosen(items, indices)
    assert list(chosen) == [rows[index] for index in indices] == items.gather(indices)
    assert list(Chosen(chosen, range(len(chosen)))) == list(chosen)
    # a value keeps its type, too: 1, 1.0 and True are equal to Python
    assert json.dumps(list(items), sort_keys=True) == json.dumps(rows, sort_keys=True)


def test_few_items_stay_a_list() -> None:
    assert kept(iter([{"a": 1}] * 3), lambda _: RowCodec(["a"])) == [{"a": 1}] * 3


def test_a_value_that_can_not_be_kept_leaves_nothing(cache: Path) -> None:
    with pytest.raises(TypeError, match=r"complex"):
        kept(iter([{"a": 1j}] * 4), lambda _: RowCodec(["a"]), "key")
    assert not list((cache / "rows").iterdir())


def test_what_has_a_key_is_found_again_and_a_damaged_file_is_not(cache: Path) -> None:
    rows = [{"a": str(number)} for number in range(9)]
    codec = RowCodec(["a"])
    assert found("some-key", lambda _: codec) is None
    read: list[int] = []
    stream = (read.append(index) or row for index, row in enumerate(rows))
    kept(stream, lambda _: codec, "some-key", about=lambda: {"names": ["a"], "read": len(read)})
    again = found("some-key", lambda about: RowCodec(about["names"]))
    assert again is not None and list(again[0]) == rows and again[1] == {"names": ["a"], "read": 9}
    (file,) = (cache / "rows").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-40])
    assert found("some-key", lambda _: codec) is None
    # without a key nothing stays behind
    assert list(kept(iter(rows), lambda _: codec)) == rows
    assert [path.name for path in (cache / "rows").iterdir()] == [file.name]


def test_a_file_of_another_content_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": f"text {number}", "label": number % 2, "other": "x"}) for number in range(8)]
    path.write_text("\n".join(lines))
    first = read_table(str(path), ROLES, {})
    assert [row["label"] for row in first.rows] == [0, 1] * 4
    again = read_table(str(path), ROLES, {})
    assert isinstance(again.rows, MappedItems) and list(again.rows) == list(first.rows)
    assert again.digest() == first.digest() == type(first)("t", list(first.rows), first.columns, first.numbers).digest()
    assert [row["text"] for row in read_table(str(path), ROLES, {"text": "other"}).rows] == ["x"] * 8
    path.write_text("\n".join(lines[::-1]))
    assert next(iter(read_table(str(path), ROLES, {}).rows))["text"] == "text 7"


def test_a_bad_line_far_down_is_named_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": f"text {number}", "label": "a"}) for number in range(9)]
    path.write_text("\n".join([*lines, '{"text": "b"}']))
    with pytest.raises(DataError, match=r"rows.jsonl, row 10: no column 'label'"):
        read_table(str(path), ROLES, {})
    assert not list((cache / "rows").iterdir())


@pytest.mark.parametrize("large", [True, False])
def test_rows_without_what_other_rows_have(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALL", 3 if large else 1000)
    roles = {"text": True, "pair": False, "label": True, "group": False}
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"text": str(number), "label": "a"} for number in range(6)]
    rows[4]["pair"] = "other"
    path.write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):
        table = read_table(str(path), roles, {})
        assert isinstance(table.rows, MappedItems) is large
        assert table.columns == {"text": "text", "pair": "pair", "label": "label"}
        assert table.column("pair") == [None, None, None, None, "other", None]
        assert list(table.rows[0]) == ["text", "pair", "label"]
    for _ in range(2):  # a column that was asked for must be there
        with pytest.raises(DataError, match=r"rows.jsonl: no column 'other' for the role 'group'"):
            read_table(str(path), roles, {"group": "other"})
    with pytest.raises(DataError, match=r"rows.jsonl: no column 'query' for the role 'text'"):
        read_table(str(path), roles, {"text": "query"})


@pytest.mark.parametrize("large", [True, False])
def test_rows_of_several_files_are_named_by_their_own(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "SMALL", 3 if large else 1000)
    sizes = {"a.csv": 4, "b.csv": 0, "c.csv": 3}
    for name, size in sizes.items():
        lines = ["text,label", *(f"{name} {number},x" for number in range(1, size + 1))]
        (tmp_path / name).write_text("\n".join([*lines, ""]))
    files = [str(tmp_path / name) for name in sizes]
    for source in (files, str(tmp_path), str(tmp_path / "*.csv")):
        for _ in range(2):
            table = read_table(source, ROLES, {})
            assert isinstance(table.rows, MappedItems) is large
            assert [row["text"] for row in table.rows] == [f"a.csv {n}" for n in range(1, 5)] + [
                f"c.csv {n}" for n in range(1, 4)
            ]
            assert f"{files[0]}, row 4, column 'text': no" in str(table.error(3, "text", "no"))
            assert f"{files[2]}, row 1, column 'text': no" in str(table.error(4, "text", "no"))
            part = table.take([6, 0])
            assert f"{files[2]}, row 3," in str(part.error(0, "text", "no"))
            assert f"{files[0]}, row 1," in str(part.error(1, "text", "no"))
    (tmp_path / "c.csv").write_text("text\none\n")
    with pytest.raises(DataError, match=r"c.csv: no column 'label'"):
        read_table(files, ROLES, {})


@pytest.mark.parametrize("large", [True, False])
def test_cells_of_other_kinds_are_alike_at_every_size(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(mapped, "SMALL", 3 if large else 1000)
    columns = {
        "text": ["a", "b", "c", "d"],
        "label": [Decimal("1.00"), Decimal("2.50"), Decimal("1.00"), Decimal("2.50")],
        "id": [date(2026, 1, day) for day in range(1, 5)],
        "group": [{"when": datetime(2026, 1, 1, 12), "size": [1, 2]}] * 4,
    }
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    table = read_table(str(path), {**ROLES, "id": True, "group": True}, {})
    assert list(table.rows)[1] == {
        "text": "b", "label": 2.5, "id": "2026-01-02", "group": {"when": "2026-01-01T12:00:00", "size": [1, 2]},
    }  # fmt: skip
    assert type(table.rows[0]["label"]) is int
    pyarrow.parquet.write_table(pyarrow.table({**columns, "text": [b"a"] * 4}), path)
    with pytest.raises(DataError, match=r"rows.parquet, row 1: column 'text' holds a bytes"):
        read_table(str(path), ROLES, {})


def test_texts_that_are_joined_need_all_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n{"a": "x", "b": null}\n')
    assert [row["text"] for row in read_table(str(path), {"text": True}, {"text": "{a} {b}"}).rows] == ["x y", None]


def _splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> Splits:
    from pefttools.data import table
    from pefttools.training import examples

    for module in (mapped, table, examples):
        monkeypatch.setattr(module, "SMALL", 3 if large else 1000)
    monkeypatch.setattr(examples, "_SLICE", 4)
    path = tmp_path / "rows.csv"
    rows = [f"{'card ' * (1 + number % 20)}{number},{'ab'[number % 2]}" for number in range(40)]
    path.write_text("\n".join(["text,label", *rows, ""]))
    return load_splits(DataConfig(train=str(path), validation=0.3), ROLES)


def test_large_splits_are_those_of_small_ones(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = choose_task({"name": "sequence-classification", "max_length": 16})
    base = locate_base(tiny_bert)
    listed = Examples(task, base, _splits(tmp_path, monkeypatch, large=False), ["a", "b"])
    wanted = list(listed.train), list(listed.validation), listed.cuts
    filed = Examples(task, base, _splits(tmp_path, monkeypatch, large=True), ["a", "b"])
    assert isinstance(filed.train, MappedItems) and isinstance(filed.validation, MappedItems)
    assert (list(filed.train), list(filed.validation), filed.cuts) == wanted
    assert filed.cuts["train"].cut > 0
    assert task.sizes(filed.train) == [len(one["input_ids"]) for one in wanted[0]]
    assert cuts_of(list(filed.train), task) == filed.cuts["train"]
    # another run of a comparison maps the same file: only the first rows are encoded, to know their types
    encoded: list[int] = []
    encode = type(task).encode

    def counted(self: Any, table: Table, *arguments: Any, **options: Any) -> Any:
        encoded.append(len(table))
        return encode(self, table, *arguments, **options)

    monkeypatch.setattr(type(task), "encode", counted)
    again = Examples(task, base, _splits(tmp_path, monkeypatch, large=True), ["a", "b"])
    assert list(again.train) == wanted[0] and encoded == [4]
    # other options, other examples
    other = choose_task({"name": "sequence-classification", "max_length": 12})
    shorter = Examples(other, base, _splits(tmp_path, monkeypatch, large=True), ["a", "b"])
    assert max(other.sizes(shorter.train)) == 12


def test_examples_of_unlike_kinds_are_refused() -> None:
    codec = ExampleCodec([{"input_ids": [1, 2], "reference": "a", "labels": [-100, 2]}])
    rows: list[dict[str, Any]] = [
        {"input_ids": [], "reference": "", "labels": []},
        {"input_ids": [3], "reference": "b", "labels": [3]},
    ]
    assert codec.decode(codec.encode(rows)) == rows
    with pytest.raises((ValueError, TypeError)):
        codec.encode([{"input_ids": "text", "reference": "", "labels": []}])
