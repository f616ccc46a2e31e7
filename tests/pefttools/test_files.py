"""Kinds of data files, and files that are not quite right: read as they are meant, or refused by name."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pefttools.data import read_table
from pefttools.data.hub import named
from pefttools.errors import DataError

ROLES = {"text": True, "label": True}
ROWS = [{"text": 'a, "b"', "label": "x"}, {"text": "tab\there; é", "label": "ÿ"}]


def _rows(source: object, **options: Any) -> list[dict[str, Any]]:
    return list(read_table(str(source), ROLES, {}, **options).rows)


def _csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def test_packed_files(tmp_path: Path) -> None:
    import zstandard

    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(_csv(ROWS).encode()))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    with zipfile.ZipFile(tmp_path / "a.tsv.zip", "w") as archive:
        archive.writestr("inside.tsv", _csv(ROWS, "\t"))
    for name in ("a.csv.gz", "a.jsonl.zst", "a.tsv.zip"):
        assert _rows(tmp_path / name) == ROWS, name
    with zipfile.ZipFile(tmp_path / "b.csv.zip", "w") as archive:
        archive.writestr("one.csv", "")
        archive.writestr("two.csv", "")
    with pytest.raises(DataError, match="contains 2 files, not one"):
        _rows(tmp_path / "b.csv.zip")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(_csv(ROWS).encode())[:-12])
    with pytest.raises(DataError, match=r"c\.csv\.gz can't be read"):
        _rows(tmp_path / "c.csv.gz")
    (tmp_path / "d.csv.bz2").write_bytes(bz2.compress(b"x"))
    with pytest.raises(DataError, match=r"files of type '\.bz2' can't be read"):
        _rows(tmp_path / "d.csv.bz2")


def test_binary_tables(tmp_path: Path) -> None:
    import openpyxl
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    book = openpyxl.Workbook()
    for cells in (["text", "label"], *(list(row.values()) for row in ROWS)):
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")
    for ending in ("parquet", "feather", "arrow", "xlsx"):
        assert _rows(tmp_path / f"a.{ending}") == ROWS, ending
        (tmp_path / f"b.{ending}").write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match=rf"b\.{ending} is not a readable"):
            _rows(tmp_path / f"b.{ending}")
    twice = pyarrow.table([["a"], ["x"], ["b"]], names=["text", "label", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "c.parquet")
    with pytest.raises(DataError, match="two columns named 'text'"):
        _rows(tmp_path / "c.parquet")


def test_json_by_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"text": ["a", "b"], "label": ["x", "y"]}))
    assert _rows(path) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    path.write_text(json.dumps({"text": ["a", "b"], "label": ["x"]}))
    with pytest.raises(DataError, match=r"different lengths: \{'text': 2, 'label': 1\}"):
        _rows(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    signature = "\ufeff" if encoding.startswith("utf-16-") else ""
    (tmp_path / "a.csv").write_bytes((signature + _csv(ROWS)).encode(encoding))
    assert _rows(tmp_path / "a.csv") == ROWS


def test_several_files(tmp_path: Path) -> None:
    for index, row in enumerate(ROWS):
        (tmp_path / f"part-{index}.csv").write_text(_csv([row]), encoding="utf-8")
    (tmp_path / "notes.md").write_text("not data")
    assert _rows(tmp_path) == _rows(tmp_path / "part-*.csv") == ROWS
    with pytest.raises(DataError, match="matches no file"):
        _rows(tmp_path / "rows-*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no file that can be read"):
        _rows(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("sep=;\ntext;label\na,b;x\n", {}),
        ("text;label\na,b;x\n", {}),
        ("text\tlabel\na,b\tx\n", {}),
        ("text|label\na,b|x\n", {}),
        ('\n \ntext,label\n"a,b",x\n', {}),
        ("text~label\na,b~x\n", {"delimiter": "~"}),
    ],
)
def test_delimiters_and_what_stands_before_the_header(content: str, options: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert _rows(tmp_path / "a.csv", **options) == [{"text": "a,b", "label": "x"}]


@given(
    st.sampled_from(",;\t|"),
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), st.text("ab", min_size=1)),
             min_size=1),
)  # fmt: skip
def test_any_table_comes_back(tmp_path_factory: pytest.TempPathFactory, delimiter: str, cells: Any) -> None:
    rows = [{"text": text, "label": label} for text, label in cells]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(_csv(rows, delimiter), encoding="utf-8", newline="")
    assert _rows(path) == rows


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", "text,label,text\na,x,b\n"), ("a.jsonl", '{"text": "a", "label": "x", "text": "b"}\n'),
    ("a.json", '[{"text": "a", "label": "x", "text": "b"}]'),
])  # fmt: skip
def test_two_columns_of_one_name(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}.* has two columns named 'text'"):
        _rows(tmp_path / name)


def test_a_quote_that_never_closes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"text {n},x" for n in range(12)]
    lines[3] = '"text 3,x'
    path.write_text("\n".join(["text,label", *lines, ""]))
    with pytest.raises(DataError, match="the quote that opens in the row after line 4 never closes"):
        _rows(path)


def test_long_cells(tmp_path: Path) -> None:
    from pefttools.data.readers import read_file

    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\nshort,x\n{'word ' * 40_000},x\n")
    assert len(_rows(tmp_path / "a.csv")[1]["text"]) == 200_000
    # side by side: the end of one takes nothing from the other
    one, other = (read_file(tmp_path / f"{name}.csv", name) for name in ("a", "b"))
    assert next(one)["text"] == next(other)["text"] == "short"
    assert len(list(one)) == 1 and len(next(other)["text"]) == 200_000


def test_class_numbers_get_their_names_however_deep() -> None:
    from datasets import ClassLabel, Features, List, Value

    features = Features(
        {"text": Value("string"), "tags": List(ClassLabel(names=["O", "B"])), "one": ClassLabel(names=["no", "yes"]),
         "inner": {"kind": ClassLabel(names=["a", "b"])}, "many": List({"kind": ClassLabel(names=["a", "b"])})}
    )  # fmt: skip
    row = {"text": "t", "tags": [0, 1], "one": 1, "inner": {"kind": 0}, "many": [{"kind": 1}]}
    assert named(row, features) == {
        "text": "t", "tags": ["O", "B"], "one": "yes", "inner": {"kind": "a"}, "many": [{"kind": "b"}],
    }  # fmt: skip
    assert named({"one": -1}, features) == {"one": None}


def test_swallowed_rows_are_counted_in_each_file(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 1)):
        odd = [f'"text {number},x\nswallowed {number},x\nand again",y' for number in range(count)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", "first,x", *odd, ""]))
    notes = read_table(str(tmp_path), ROLES, {}).notes
    assert [f"{tmp_path / 'a.csv'}, row {row} " in note for row, note in zip((2, 3, 4), notes, strict=False)] == [
        True
    ] * 3
    assert notes[3] == f"{tmp_path / 'a.csv'}: 2 further rows have such cells"
    assert notes[4].startswith(f"{tmp_path / 'b.csv'}, row 2 ") and len(notes) == 5


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_damaged_packed_files_are_named(ending: str, tmp_path: Path) -> None:
    import random

    import zstandard

    whole = _csv(ROWS * 200).encode()
    packed = (
        gzip.compress(whole, mtime=0)
        if ending == "gz"
        else zstandard.ZstdCompressor(write_checksum=True).compress(whole)
    )
    generator = random.Random(0)
    path = tmp_path / f"a.csv.{ending}"
    for _ in range(30):
        damaged = bytearray(packed)
        damaged[generator.randrange(12, len(damaged))] ^= 0x5A
        path.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match=rf"a\.csv\.{ending}"):
            _rows(path)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_packed_files_that_were_cut_off_are_named(ending: str, tmp_path: Path) -> None:
    """Even where what is left ends with a row."""
    import zstandard

    path = tmp_path / f"a.csv.{ending}"
    rows = [f"{number},x\n".encode() for number in range(2000)]
    if ending == "gz":
        with gzip.open(path, "wb") as stream:
            stream.write(b"text,label\n")
            stream.writelines(rows)
            stream.flush()
            whole_rows = path.stat().st_size
            stream.writelines(rows)
    else:
        packer = zstandard.ZstdCompressor().compressobj()
        first = packer.compress(b"text,label\n" + b"".join(rows)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        whole_rows = len(first)
        path.write_bytes(first + packer.compress(b"".join(rows)) + packer.flush())
    assert len(_rows(path)) == 4000
    path.write_bytes(path.read_bytes()[:whole_rows])
    with pytest.raises(DataError, match=rf"a\.csv\.{ending}"):
        _rows(path)


def test_columns_of_a_worksheet_that_are_written_alike(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["text", "label", 1, "1"])
    book.active.append(["a", "x", "one", "two"])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="two columns named '1'"):
        _rows(tmp_path / "a.xlsx")


def test_class_numbers_of_a_parquet_file_get_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features).to_parquet(tmp_path / "a.parquet")
    assert [row["label"] for row in _rows(tmp_path / "a.parquet")] == ["yes", "no"]


def test_a_sign_in_a_single_column_is_not_a_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a|b\nsome text\nanother; text\n")
    table = read_table(str(tmp_path / "a.csv"), {"text": True}, {"text": "a|b"})
    assert [row["text"] for row in table.rows] == ["some text", "another; text"]


def test_zips_as_they_are_made(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("rows.csv", _csv(ROWS))
        archive.writestr("__MACOSX/._rows.csv", "resource")
        archive.writestr(".DS_Store", "x")
    assert _rows(tmp_path / "data.zip") == ROWS


def test_what_a_stray_quote_swallows_is_noted_every_time(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    from pefttools.data import mapped

    monkeypatch.setattr(mapped, "SMALL", 3)
    path = tmp_path / "a.csv"
    for swallowed in (1, 2, 5):
        lines = [f"text {n},{'xy'[n % 2]}" for n in range(14)]
        lines[5] = f'"{lines[5]}'
        lines[5 + swallowed] = lines[5 + swallowed].replace(",", '",')
        path.write_text("\n".join(["text,label", *lines, ""]))
        for _ in range(2):  # the second time from the cache, if it were kept there
            table = read_table(str(path), ROLES, {})
            assert len(table) == 14 - swallowed
            (note,) = table.notes
            assert note.startswith(f"{path}, row 6 (lines 7 to {7 + swallowed}): a cell contains line ends"), swallowed
    path.write_text('text,label\na,x\nb,x\n"dear all,\nthank you, and\nsee you",x\nc,y\n')
    assert read_table(str(path), ROLES, {}).notes == ()
