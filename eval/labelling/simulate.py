"""A simulation of active learning: the labels are known, and strategies compete for the rows that are worth one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pefttools.bases import locate_base
from pefttools.data import Splits, load_splits
from pefttools.errors import ConfigError, DataError
from pefttools.files import canonical_json, check_writable, write_text_atomic
from pefttools.progress import Reporter, SilentReporter
from pefttools.recipe import choose_method, choose_task, validate
from pefttools.tasks import Task
from pefttools.training.selection import choose_selection

from ..environment import Environment, this_environment
from ..row_files import portable_rows, write_rows
from .data import Report
from .report import report_of, write
from .spec import LabellingSpec, load_spec
from .strategies import STRATEGIES
from .training import check, said_of, train_on

RUNS = "runs"


def simulate(
    spec: LabellingSpec | str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Report:
    """Label rows whose labels are known, a few at a time, by several strategies, or what is left of that.

    All strategies of a seed begin with the same rows, drawn at random. After each training the model says which rows of
    the pool come next. Every model is tested on the test rows; nothing is chosen on validation rows.

    Args:
        spec: a `LabellingSpec`, the path of a YAML file, or a mapping of the same form.
        overrides: ``field.field=value`` on a YAML file.
        reporter: shows progress.

    Returns:
        The report, whose files are in the output folder.

    Raises:
        ConfigError: anything wrong with the spec.
        DataError: rows that the task can't take, or too few.
    """
    if isinstance(spec, str | Path):
        spec = load_spec(Path(spec), overrides)
    elif not isinstance(spec, LabellingSpec):
        spec = validate(LabellingSpec, dict(spec), "spec")
    reporter = reporter or SilentReporter()
    task = choose_task(spec.task)
    check(task)
    choose_method(spec.method)
    check_writable(spec.output / RUNS)
    splits = load_splits(spec.data, task.columns(), task.strata, task.files_in())
    if splits.test is None:
        raise DataError("a simulation needs test rows", hint="Give data.test, a file or a share of train.")
    wanted = spec.start + spec.rounds * spec.per_round
    if wanted > len(splits.train):
        raise DataError(f"{wanted} rows are to be labelled, and there are only {len(splits.train)}")
    labels = task.labels(splits.train)
    for table in splits.tables().values():
        task.check(table, labels)
    scores: dict[tuple[str, int], list[tuple[int, float]]] = {}
    total = len(spec.seeds) * len(spec.strategies)
    with reporter.step(spec.name, "runs") as advance:
        for seed in spec.seeds:
            for name in spec.strategies:
                scores[name, seed] = _run(spec, task, splits, labels, name, seed, reporter)
                advance(len(scores), total, f"{name}, seed {seed}")
    selection = choose_selection(spec.selection, task)
    unit = next((one.measure.unit for one in task.metrics if one.name == selection.metric), "")
    found = report_of(spec, selection.metric, unit, selection.greater_is_better, scores)
    write(found)
    return found


def _run(
    spec: LabellingSpec, task: Task[Any], splits: Splits, labels: Sequence[str], name: str, seed: int,
    reporter: Reporter,
) -> list[tuple[int, float]]:  # fmt: skip
    """Scores of a strategy by number of labels; each round is kept, and not repeated."""
    assert splits.test is not None
    folder = spec.output / RUNS / f"{name}-seed{seed}"
    pool = portable_rows(splits.train, task)
    test = spec.output / "test.parquet"
    write_rows(test, portable_rows(splits.test, task))
    metric = choose_selection(spec.selection, task).metric
    environment = this_environment(type(choose_method(spec.method)[0]))
    chosen = [int(one) for one in _start(spec, splits, task, seed)]
    made_from = _made_from(spec, splits, name, seed)
    found: list[tuple[int, float]] = []
    for number in range(spec.rounds + 1):
        path = folder / f"round{number}.json"
        known = _known(path, made_from, chosen, environment, spec)
        if known is None:
            reporter.event(f"{name}, seed {seed}: {len(chosen)} labels")
            work = folder / "work"
            stored = train_on(spec, [pool[one] for one in chosen], labels, work, seed, reporter, test=test)
            assert stored.test is not None
            more: list[int] = []
            if number < spec.rounds:
                taken = set(chosen)
                rest = [index for index in range(len(pool)) if index not in taken]
                said = said_of(
                    stored, splits.train.take(rest), splits.train.take(chosen), spec.training.eval_batch_size
                )
                generator = np.random.default_rng([seed, number])
                more = [rest[index] for index in STRATEGIES[name](said, spec.per_round, generator)]
            known = {"made_from": made_from, "labelled": chosen, "score": stored.test.metrics[metric], "next": more,
                     "environment": asdict(environment)}  # fmt: skip
            del stored
            write_text_atomic(path, canonical_json(known))
            shutil.rmtree(work)
        found.append((len(chosen), float(known["score"])))
        chosen = [*chosen, *known["next"]]
    return found


def _start(spec: LabellingSpec, splits: Splits, task: Task[Any], seed: int) -> Sequence[int]:
    """The first rows: at random, but of two labels at least, without which nothing can be trained."""
    order = np.random.default_rng(seed).permutation(len(splits.train))
    first = [int(one) for one in order[: spec.start]]
    rows = splits.train.rows
    if len({task.strata(rows[one]) for one in first}) < 2:
        of_first = task.strata(rows[first[0]])
        other = next((int(one) for one in order if task.strata(rows[int(one)]) != of_first), None)
        if other is None:
            raise ConfigError("all rows have the same label: there is nothing to learn")
        first[-1] = other
    return first


def _made_from(spec: LabellingSpec, splits: Splits, name: str, seed: int) -> str:
    """Names all that determines a run."""
    content = {
        "base": locate_base(spec.base, spec.revision).identity,
        **spec.model_dump(
            mode="json",
            include={"variant", "method", "task", "objective", "start", "per_round", "training", "selection"},
        ),
        "data": splits.digests(),
        "strategy": name,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _known(
    path: Path, made_from: str, chosen: Sequence[int], now: Environment, spec: LabellingSpec
) -> dict[str, Any] | None:
    """A round that need not be repeated."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if known.get("made_from") != made_from or known["labelled"] != list(chosen):
        return None
    if not known["next"] and len(chosen) < spec.start + spec.rounds * spec.per_round:
        return None  # it was the last round of fewer
    unlike = Environment(**known["environment"]).differences(now, same_method=True)
    return known if spec.reuse == "any" or not unlike else None
