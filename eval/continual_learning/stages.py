"""The rows of each stage, written to files of their own, so that a training reads them like any others."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.data import Table, load_splits
from pefttools.errors import ConfigError, DataError
from pefttools.tasks import Task

from ..row_files import portable_rows, write_rows
from ..spec import slug
from .spec import ContinualSpec, StageConfig

DATA = "data"
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Stage:
    """Rows that are learned together.

    Attributes:
        name: of the stage.
        labels: of its training rows; empty if the task has none.
        files: split -> file of its rows, by role.
        digest: of all its rows.
        rows: split -> number of rows.
    """

    name: str
    labels: tuple[str, ...]
    files: dict[str, Path]
    digest: str
    rows: dict[str, int]


def write_stages(spec: ContinualSpec, task: Task[Any]) -> list[Stage]:
    """Read the rows of all stages, and write them to the output folder.

    Raises:
        ConfigError: too few labels to deal, or stages whose labels do not fit the scenario.
        DataError: rows that the task can't take, or a stage without test rows.
    """
    stages = _dealt(spec, task) if spec.data is not None else [_given(one, spec, task) for one in spec.stages]
    _check_labels(stages, spec)
    return stages


def _given(config: StageConfig, spec: ContinualSpec, task: Task[Any]) -> Stage:
    splits = load_splits(config.data, task.columns(), task.strata, task.files_in())
    if splits.test is None:
        raise DataError(f"stages: {config.name!r} has no test rows", hint="Give data.test, a file or a share of train.")
    labels = task.labels(splits.train) if task.has_labels else []
    return _written(config.name, labels, splits.tables(), spec, task)


def _dealt(spec: ContinualSpec, task: Task[Any]) -> list[Stage]:
    assert spec.data is not None and spec.parts is not None
    if not task.one_label:
        raise ConfigError(
            f"the task {task.name!r} has no label per row that could be dealt into parts", hint="List the stages."
        )
    splits = load_splits(spec.data, task.columns(), task.strata, task.files_in())
    if splits.test is None:
        raise DataError("data has no test rows", hint="Give data.test, a file or a share of train.")
    labels = task.labels(splits.train)
    if len(labels) < 2 * spec.parts:
        raise ConfigError(f"{len(labels)} labels can't be dealt into {spec.parts} parts of two or more")
    order = list(labels)
    random.Random(spec.data.seed).shuffle(order)
    stages = []
    for number in range(spec.parts):
        own = sorted(order[number :: spec.parts])
        known = set(own)
        tables = {
            name: table.take([index for index, row in enumerate(table.rows) if str(task.strata(row)) in known])
            for name, table in splits.tables().items()
        }
        if empty := next((name for name, table in tables.items() if not len(table)), None):
            raise DataError(f"part {number + 1} of the labels has no {empty} rows")
        stages.append(_written(f"part {number + 1}", own, tables, spec, task))
    return stages


def _check_labels(stages: Sequence[Stage], spec: ContinualSpec) -> None:
    """Refuse stages whose labels contradict the scenario."""
    if spec.scenario == "domain-incremental":
        unlike = next((stage for stage in stages if set(stage.labels) != set(stages[0].labels)), None)
        if unlike is not None:
            raise ConfigError(
                f"the scenario is domain-incremental, but {stages[0].name!r} and {unlike.name!r} have different labels",
                hint="Set scenario to class-incremental, or to task-incremental if a row's stage is known.",
            )
        return
    seen: dict[str, str] = {}
    for stage in stages:
        if not stage.labels:
            raise ConfigError(f"the scenario is {spec.scenario}, but {stage.name!r} has no labels",
                              hint="Set scenario to domain-incremental.")  # fmt: skip
        for label in stage.labels:
            if label in seen:
                raise ConfigError(
                    f"the scenario is {spec.scenario}, but the label {label!r} is in {seen[label]!r} and in "
                    f"{stage.name!r}",
                    hint="Set scenario to domain-incremental, if all stages have the same labels.",
                )
            seen[label] = stage.name


def _written(name: str, labels: Sequence[str], tables: dict[str, Table], spec: ContinualSpec, task: Task[Any]) -> Stage:
    files, digest = {}, hashlib.sha256()
    for split in _SPLITS:
        table = tables[split]
        digest.update(table.digest().encode())
        path = spec.output / DATA / f"{slug(name)}-{split}.parquet"
        write_rows(path, portable_rows(table, task))
        files[split] = path
    rows = {split: len(tables[split]) for split in _SPLITS}
    return Stage(name, tuple(labels), files, digest.hexdigest(), rows)
