"""Trying all cells: several processes, one family after the other; results are stored as they arrive."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pefttools.artifact.save import package_versions
from pefttools.bases import variants as known_variants
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.methods import methods as known_methods
from pefttools.progress import Reporter, SilentReporter

from ..environment import PACKAGES, code_digest
from .cells import TRAINED, Cell, Observation, observe
from .elsewhere import Elsewhere
from .families import FAMILIES, Bench, make_bench
from .grid import Task, choices, full_grid, slice_of
from .own_base import bench_of
from .table import FILE, ProbeTable


def probe(
    base: str | None = None,
    *,
    methods: Sequence[str | Mapping[str, Any]] | None = None,
    families: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    task: str | Mapping[str, Any] | None = None,
    part: bool = False,
    compiled: bool = True,
    reuse: Literal["same", "any"] = "same",
    jobs: int = 1,
    output: Path | str = "runs/probe",
    reporter: Reporter | None = None,
) -> ProbeTable:
    """Try what each method does on each family of models, in each number format.

    Each is trained for a few steps, saved, loaded in another process, merged, mixed into a batch with others, planned,
    exported and so on; every result is compared with what it must be.

    Args:
        base: your own model; None for tiny models with random weights, one for each family.
        methods: names, or mappings with name and options; all registered ones if None.
        families: names of `FAMILIES`; all if None.
        variants: number formats of the base's weights; None for the default on your own base, otherwise all.
        task: the task for your own base; None to choose it by what the base reads and writes.
        part: try a slice that covers every method and every family once.
        compiled: try `torch.compile` too, where a full grid does.
        reuse: ``same``: cells in the output folder are kept if the same code made them; ``any``: whatever code made
            them, unless they failed.
        jobs: number of processes.
        output: folder of ``probe.json``.
        reporter: shows progress.

    Returns:
        The table; also in ``probe.json``.

    Raises:
        PeftToolsError: an unknown name, or a base or task that can't be probed.
    """
    own = None if base is None else _own(base, task)
    models = _checked(families) if own is None else [own.title]
    formats = list(variants or ([known_variants.default()] if base else _first_the_default()))
    tasks, unable = _tasks(methods, models, formats, compiled)
    if part:
        tasks = slice_of(tasks)
    path = Path(output) / FILE
    table = _begun(path, unable, reuse)
    have = {(cell.method, cell.family, cell.variant): cell.checks for cell in table.cells}
    groups = _groups([one for one in tasks if not _known(one, have.get(one.key))])
    reporter = reporter or SilentReporter()
    with reporter.step("probe", "cells") as advance:
        done = len(tasks) - sum(len(group) for group in groups)
        for cells in _run(groups, own, jobs):
            table = table.with_cells(cells)
            table.write(path)
            done += len(cells)
            advance(done, len(tasks), f"{cells[-1].family}, {cells[-1].variant}")
    table = table.in_order([one.key for one in tasks])
    table.write(path)
    return table


def _checked(families: Sequence[str] | None) -> list[str]:
    """Names of families; all of them where none are given."""
    for name in families or ():
        if name not in FAMILIES:
            raise UnknownNameError("family", name, list(FAMILIES))
    return list(families or FAMILIES)


def _tasks(
    methods: Sequence[str | Mapping[str, Any]] | None, models: Sequence[str], formats: Sequence[str], compiled: bool
) -> tuple[list[Task], dict[str, str]]:
    """All cells to try, and the methods that can't be tried, with the reason.

    Raises:
        UnknownNameError: no such method or variant.
        ConfigError: none of the methods can be tried.
    """
    plain = [one for one in (methods if methods is not None else known_methods) if isinstance(one, str)]
    able, unable = choices(plain)
    able += [dict(one) for one in methods or () if not isinstance(one, str)]
    for name in formats:
        known_variants.get(name)
    found = list(full_grid(able, models, formats, compiled=compiled))
    if not found:
        raise ConfigError(f"none of these methods can be tried: {'; '.join(f'{k}: {v}' for k, v in unable.items())}")
    return found, dict(unable)


@dataclass(frozen=True)
class _Own:
    """The user's own base, and its task."""

    base: str
    task: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The name in its cells: the same base with another task is another model."""
        return f"{self.base} ({self.task['name']})"


def _own(base: str, task: str | Mapping[str, Any] | None) -> _Own:
    """The base and task, after checking that they can be probed.

    Raises:
        PeftToolsError: no such base, or a task for which no rows can be made.
    """
    with tempfile.TemporaryDirectory() as spare:
        return _Own(base, bench_of(base, Path(spare), task).task)


def _first_the_default() -> list[str]:
    first = known_variants.default()
    return [first, *(name for name in known_variants if name != first)]


def _known(task: Task, checks: Mapping[str, Observation] | None) -> bool:
    """Whether a cell was already tried with all requested checks."""
    if checks is None:
        return False
    return checks[TRAINED].status != "works" or set(task.checks) <= set(checks)


def _begun(path: Path, unable: Mapping[str, str], reuse: str) -> ProbeTable:
    """What is already in the output folder and need not be tried again."""
    versions = {**package_versions(PACKAGES), "code": code_digest()}
    fresh = ProbeTable(versions, unable=unable)
    if not path.is_file():
        return fresh
    found = ProbeTable.read(path)
    if found.versions == versions:
        return ProbeTable(versions, found.cells, unable)
    kept = [cell for cell in found.cells if cell.status not in ("fails", "wrong")]
    # Cells made by several versions of the code belong to none of them.
    return ProbeTable({**versions, "code": "several"}, tuple(kept), unable) if reuse == "any" else fresh


#: results are written after so many cells
_AT_A_TIME = 4


def _groups(tasks: Sequence[Task]) -> list[list[Task]]:
    """Cells that one process tries, one after the other: those of one model in one number format."""
    found: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        found.setdefault((task.family, task.variant), []).append(task)
    return [
        group[at : at + _AT_A_TIME] for group in found.values() for at in range(0, len(group), _AT_A_TIME)
    ]  # fmt: skip


def _run(groups: Sequence[list[Task]], own: _Own | None, jobs: int) -> Iterator[list[Cell]]:
    if jobs == 1:
        _start(None)
        try:
            for group in groups:
                yield _tried(group, own)
        finally:
            while _loaders:
                _loaders.pop().close()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(1,)) as pool:
        running: list[Future[list[Cell]]] = [pool.submit(_tried, group, own) for group in groups]
        try:
            for future in as_completed(running):
                yield future.result()
        except BrokenProcessPool as error:
            raise ConfigError(
                "a process died while it tried a method: it ran out of memory, or a library crashed",
                hint="Run again: it continues where it stopped. --jobs 1 needs the least memory, and shows the place.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


#: the helper process that loads artifacts, one per process that tries cells
_loaders: list[Elsewhere] = []


def _start(threads: int | None) -> None:
    import torch

    from pefttools.logs import quiet_libraries

    quiet_libraries()
    if threads is not None:
        torch.set_num_threads(threads)


def _tried(group: Sequence[Task], own: _Own | None) -> list[Cell]:
    if not _loaders:
        _loaders.append(Elsewhere())
    with tempfile.TemporaryDirectory(prefix="pefttools-probe-") as name:
        folder = Path(name)
        first = group[0]
        bench = make_bench(first.family, folder) if own is None else bench_of(own.base, folder, own.task)
        return [_cell(task, bench, folder / str(number), _loaders[0].answers) for number, task in enumerate(group)]


def _cell(task: Task, bench: Bench, folder: Path, answers: Callable[..., Any]) -> Cell:
    start = time.monotonic()
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about positions that tiny models lack, and the like
        found = observe(task.method, bench, task.variant, folder, checks=task.checks, answers=answers)
    shutil.rmtree(folder)
    plain = {check: Observation(one.status, one.why.replace(bench.base, bench.family)) for check, one in found.items()}
    return Cell(task.title, task.family, task.variant, plain, time.monotonic() - start)
