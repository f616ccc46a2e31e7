"""Labels: what is the same label, what is none, and how splits keep their shares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pefttools.data import DataConfig, Splits, Table, load_splits
from pefttools.data.divide import divide, draw
from pefttools.data.labels import label_text
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import Recipe, choose_task
from pefttools.training.prepare import prepare

TASK = choose_task("sequence-classification")


def _table(labels: list[Any], texts: list[str] | None = None) -> Table:
    rows = [{"text": (texts or [f"text {n}" for n in range(len(labels))])[n], "label": label}
            for n, label in enumerate(labels)]  # fmt: skip
    return Table("rows.jsonl", rows, {"text": "text", "label": "intent"}, range(1, len(rows) + 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("card ", "card"), ("\u00a0card\t", "card"), ("", None), (" \u00a0", None), (None, None), (float("nan"), None),
        (1, "1"), (1.0, "1"), ("1", "1"), ("1.0", "1"), (0.5, "0.5"), (-2.0, "-2"), ("007", "007"), ("1.10", "1.10"),
        (True, "True"), (False, "False"), ("nan", "nan"), ("NA", "NA"), ("null", "null"),
    ],
)  # fmt: skip
def test_what_a_cell_says(value: Any, text: str | None) -> None:
    assert label_text(value) == text


@given(st.integers(-(2**40), 2**40))
def test_a_number_is_the_same_label_however_it_is_written(number: int) -> None:
    assert {label_text(one) for one in (number, float(number), str(number), f"{number}.0")} == {str(number)}


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["a", None, "b"], "row 2, column 'intent': the label is empty"),
        (["a", float("nan"), "b"], "row 2, column 'intent': the label is empty"),
        (["a", ["b"], "b"], r"row 2, column 'intent': \['b'\] is not one label"),
        ([1, 0, True], "row 3, column 'intent': True is mixed with 1"),
        (["a", "a ", "a\u00a0"], "has 1 label; two are needed"),
    ],
)
def test_labels_that_can_not_be_learned(labels: list[Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        TASK.labels(_table(labels))


def test_labels_match_across_files() -> None:
    labels = TASK.labels(_table([1, 0, 1.0, "0 "]))
    assert labels == ["0", "1"]
    TASK.check(_table(["1", "0.0", 1]), labels)
    with pytest.raises(DataError, match=r"row 1, column 'intent': the label True does not occur in the training rows"):
        TASK.check(_table([True]), labels)
    declared = choose_task({"name": "sequence-classification", "labels": ["yes", "no", "perhaps"]})
    assert declared.labels(_table(["no", "yes"])) == ["yes", "no", "perhaps"]


def _recipe(base: str, folder: Path, rows: list[dict[str, Any]], **data: Any) -> Recipe:
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Recipe.model_validate(
        {"base": base, "method": "lora", "data": {"train": str(file), **data}, "output": str(folder / "a")}
    )


def test_notes_and_rows_that_are_left_out(tiny_bert: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "often"} for n in range(60)]
    rows += [{"text": f"other {n}", "label": "seldom "} for n in range(2)]
    rows += [{"text": "text 0", "label": "seldom "}]
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "text 1", "label": "often"}\n{"text": "new", "label": "unheard"}\n')
    recipe = _recipe(tiny_bert, tmp_path, rows, validation=0.1, test=str(test))
    with pytest.raises(DataError, match=r"row 2.*'unheard' does not occur"):
        prepare(recipe)
    recipe = _recipe(tiny_bert, tmp_path, rows, validation=0.1, test=str(test), unknown_labels="skip")
    prepared = prepare(recipe)
    assert (
        prepared.labels == ["often", "seldom"] and prepared.splits.test is not None and len(prepared.splits.test) == 1
    )
    notes = "\n".join(prepared.notes)
    for part in (
        "test: 1 rows with unknown labels are left out",
        "train: 'often' has 55 rows, 'seldom' 2: see task.class_weights=balanced",
        "white space around the labels of 2 rows is ignored",
        "test: 1 of 2 labels do not occur: seldom",
        "test: 1 of 1 rows have an input that is also in",
    ):
        assert part in notes, part
    assert ("with a different label" in notes) or ("input that is also in train" in notes)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.floats(0.05, 0.5), st.integers(0, 5))
def test_splits_keep_the_shares_and_training_keeps_every_label(counts: list[int], share: float, seed: int) -> None:
    labels = [f"l{label}" for label, count in enumerate(counts) for _ in range(count)]
    table = _table(labels)
    places = max(1, round(share * len(table)))
    if places >= len(table):
        return
    if max(counts) == 1:
        with pytest.raises(DataError, match="no label occurs twice"):
            divide(table, share, seed, TASK.strata, False, "validation")
        return
    rest, part, notes = divide(table, share, seed, TASK.strata, False, "validation")
    assert sorted([*rest.numbers, *part.numbers]) == list(range(1, len(labels) + 1))
    left, taken = Counter(rest.column("label")), Counter(part.column("label"))
    assert set(left) == set(labels)
    assert any("occur once" in note for note in notes) == (1 in counts)
    several = [count for count in counts if count > 1]
    if len(part) >= len(several):
        for label, count in Counter(labels).items():
            exact = count * len(part) / sum(several)
            assert count == 1 or taken[label] >= 1 or exact < 1
    again, _, _ = divide(table, share, seed, TASK.strata, False, "validation")
    assert list(again.numbers) == list(rest.numbers)


def test_a_random_limit_keeps_every_label() -> None:
    table = _table([f"l{n % 40}" for n in range(400)] + ["rare"])
    part, notes = draw(table, 60, 0, TASK.strata, "train")
    assert len(part) == 60 and len(set(part.column("label"))) == 41 and not notes
    part, notes = draw(table, 20, 0, TASK.strata, "train")
    assert len(part) == 20 and "fewer than the 41 labels" in notes[0]


def test_a_number_of_rows_of_each_label(tmp_path: Path) -> None:
    """Of more rows those that were drawn before are a part, so that curves over their number are of one growing set."""
    file = tmp_path / "train.csv"
    file.write_text("text,label\n" + "".join(f"text {n},l{n % 5}\n" for n in range(200)) + "once,rare\n")
    drawn = []
    for count in (4, 8):
        config = DataConfig(train=str(file), validation=0.2, limit={"train": f"{count} per class"})
        splits = load_splits(config, TASK.columns(), TASK.strata)
        assert Counter(splits.train.column("label")) == {**{f"l{n}": count for n in range(5)}, "rare": 1}
        assert f"train: 1 of 6 labels have fewer than {count} rows" in splits.notes
        drawn.append(set(splits.train.column("text")))
    assert drawn[0] < drawn[1]
    with pytest.raises(DataError, match="have no classes"):
        load_splits(config, TASK.columns(), None)
    with pytest.raises(ValidationError):
        DataConfig(train=str(file), limit={"train": "few per class"})


def test_thousands_of_labels(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label\n" + "".join(f"text {n},l{n // 2}\n" for n in range(4000)) + "once,single\n")
    for seed in range(3):
        splits = load_splits(
            DataConfig(train=str(file), validation=0.1, test=0.1, seed=seed), TASK.columns(), TASK.strata
        )
        known = set(splits.train.column("label"))
        assert splits.test is not None and len(known) == 2001
        assert set(splits.test.column("label")) <= known and set(splits.validation.column("label")) <= known
        assert any(note.endswith("and stay in training: 1") for note in splits.notes)


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label,customer\n" + "".join(f"text {n},l{n % 2},c{n % 7}\n" for n in range(70)))
    config = DataConfig(train=str(file), validation=0.2, test=0.2, group="customer")
    splits = load_splits(config, TASK.columns(), TASK.strata)
    assert splits.test is not None
    groups = [set(table.column("group")) for table in (splits.train, splits.validation, splits.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert sum(map(len, groups)) == 7 and all(groups)
    with pytest.raises(DataError, match="no column 'client' for the role 'group'"):
        load_splits(config.model_copy(update={"group": "client"}), TASK.columns(), TASK.strata)


@pytest.mark.parametrize("labels", [["a", "a "], ["a", " "], ["1", "1.0"]])
def test_declared_labels_that_are_no_labels(labels: list[str]) -> None:
    task = choose_task({"name": "sequence-classification", "labels": labels})
    with pytest.raises(DataError, match=r"task\.labels"):
        task.labels(_table(["a", "b"]))


def test_labels_of_a_recipe_are_those_of_the_rows_by_value() -> None:
    table = _table([0, "1.0", 0, 1])
    for labels in ([0, 1], ["0", "1.0"], [0.0, " 1"]):
        task = choose_task({"name": "sequence-classification", "labels": labels})
        assert task.labels(table) == ["0", "1"]
        task.check(table, task.labels(table))
    for weights in ({0: 1, 1: 3}, {"0": 1, "1.0": 3}, {0.0: 1, " 1 ": 3}):
        task = choose_task({"name": "sequence-classification", "class_weights": weights}).settled(table, ["0", "1"])
        assert task.options.class_weights == {"0": 1.0, "1": 3.0}
    with pytest.raises(ConfigError, match="listed twice"):
        choose_task({"name": "sequence-classification", "class_weights": {0: 1, "0": 2}})


def test_rows_that_are_skipped_are_those_of_other_labels_alone(tmp_path: Path) -> None:
    """A label that is missing, or a list, is a fault of the data like any other."""
    from pefttools.training.prepare import known_rows

    for value, problem in ((None, "the label is empty"), (["a"], "is not one label")):
        split = Table("rows.csv", [{"text": "x", "label": label} for label in ("a", "c", value)],
                      {"text": "text", "label": "label"}, range(1, 4))  # fmt: skip
        with pytest.raises(DataError, match=rf"rows.csv, row 3, column 'label': .*{problem}"):
            known_rows(Splits(_table(["a", "b"]), split, None), TASK, ["a", "b"])
        known = known_rows(Splits(_table(["a", "b"]), split.take([0, 1]), None), TASK, ["a", "b"])
        assert len(known.validation) == 1 and "1 rows with unknown labels" in known.notes[0]


def test_other_things_that_are_missing_or_no_text() -> None:
    from decimal import Decimal

    import numpy

    assert label_text(Decimal("NaN")) is None and label_text(numpy.float32("nan")) is None
    assert label_text(Decimal("1.0")) == label_text(numpy.float32(1)) == label_text(numpy.int64(1)) == "1"
    assert label_text("\u200bcard\ufeff") == "card"
    with pytest.raises(DataError, match="is not one label"):
        label_text(b"card")


def test_groups_of_very_unlike_sizes() -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "group": "large" if n < 90 else f"small {n}"} for n in range(100)]
    table = Table("t", rows, {"text": "text", "label": "label", "group": "customer"}, range(1, 101))
    for seed in range(8):
        rest, part, _ = divide(table, 0.1, seed, TASK.strata, True, "validation")
        assert len(part) <= 10 and "large" not in part.column("group") and len(rest) >= 90
    even = [{**row, "group": f"g{n % 2}"} for n, row in enumerate(rows)]
    with pytest.raises(DataError, match="no group is small enough"):
        divide(Table("t", even, table.columns, range(1, 101)), 0.1, 0, None, True, "validation")
    rows[3] = {**rows[3], "group": " "}
    with pytest.raises(DataError, match="row 4, column 'customer': the group is empty"):
        divide(Table("t", rows, table.columns, range(1, 101)), 0.1, 0, None, True, "validation")


def test_groups_in_two_given_files_are_said(tmp_path: Path) -> None:
    for name, customers in (("train", "ab"), ("validation", "bc")):
        lines = [f"text {name} {n},l{n % 2},{customers[n % 2]}\n" for n in range(6)]
        (tmp_path / f"{name}.csv").write_text("text,label,customer\n" + "".join(lines))
    config = DataConfig(
        train=str(tmp_path / "train.csv"), validation=str(tmp_path / "validation.csv"), group="customer"
    )
    notes = load_splits(config, TASK.columns(), TASK.strata).notes
    assert "validation: 1 of 2 groups (data.group) are also in train" in notes


def test_a_limit_below_the_number_of_labels_leaves_out_what_can_not_be_learned(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label\n" + "".join(f"text {n},l{n % 40}\n" for n in range(400)))
    splits = load_splits(DataConfig(train=str(file), validation=0.2, limit={"train": 20}), TASK.columns(), TASK.strata)
    known = set(splits.train.column("label"))
    assert len(splits.train) == 20 and set(splits.validation.column("label")) <= known
    assert any("rows whose labels data.limit leaves out of training" in note for note in splits.notes)
