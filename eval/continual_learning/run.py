"""A study: all its trainings, or what is left of them, and its report."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pefttools.bases import locate_base
from pefttools.errors import ConfigError, PeftToolsError, TrainingError
from pefttools.files import canonical_json, check_writable, write_text_atomic
from pefttools.progress import Reporter, SilentReporter
from pefttools.recipe import choose_method, choose_task, validate

from ..environment import Environment, this_environment
from .data import Report
from .evaluating import task_choice
from .plan import ARTIFACT, RESULT, RUNS, Study, Work, plan
from .report import report_of, write
from .spec import ContinualSpec, load_spec
from .stages import write_stages
from .strategies import choose
from .work import do

Results = dict[str, dict[str, Any]]


def continual(
    spec: ContinualSpec | str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    reporter: Reporter | None = None,
) -> Report:
    """Learn stages one after the other by several strategies, or what is left of that.

    Args:
        spec: a `ContinualSpec`, the path of a YAML file, or a mapping of the same form.
        overrides: ``field.field=value`` on a YAML file.
        jobs: number of concurrent trainings; the processor's threads are shared among them.
        reporter: shows progress.

    Returns:
        The report, whose files are in the output folder.

    Raises:
        ConfigError: anything wrong with the spec.
        DataError: rows that the task can't take.
        TrainingError: nothing could be trained.
    """
    if isinstance(spec, str | Path):
        spec = load_spec(Path(spec), list(overrides))
    elif not isinstance(spec, ContinualSpec):
        spec = validate(ContinualSpec, dict(spec), "spec")
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: it must be at least 1")
    reporter = reporter or SilentReporter()
    study = prepared(spec)
    works = plan(study)
    environment = this_environment(type(choose_method(spec.method)[0]))
    results, failures = _done(study, works, environment, reporter), {}
    waiting = [work for work in works if work.id not in results]
    if results:
        reporter.event(f"{len(results)} of {len(works)} pieces are already done: {len(waiting)} are left")
    with reporter.step(spec.name, "pieces") as advance:
        for work, outcome in _all(study, waiting, set(results), jobs, reporter):
            if isinstance(outcome, str):
                failures[work.id] = outcome
                reporter.event(f"{work.id}: {outcome}")
            else:
                results[work.id] = outcome
                _keep(study, work, outcome, environment)
            advance(len(results), len(works), work.id)
    if not results:
        raise TrainingError(f"nothing could be trained; the first: {next(iter(failures.values()))}")
    found = report_of(study, results, [f"{name}: {why}" for name, why in failures.items()])
    write(found)
    return found


def prepared(spec: ContinualSpec) -> Study:
    """A spec with its rows read, and everything checked that can be before a training.

    Raises:
        PeftToolsError: anything wrong with it.
    """
    strategies = choose(spec.strategies)
    choose_method(spec.method)
    task = choose_task(spec.task)
    check_writable(spec.output / RUNS)
    base = locate_base(spec.base, spec.revision)
    stages = write_stages(spec, task)
    labels = tuple(sorted({label for stage in stages for label in stage.labels}))
    if spec.scenario != "domain-incremental" and "among" not in task.config.model_fields:
        raise ConfigError(
            f"the scenario {spec.scenario} adds labels stage by stage, which the task {task.name!r} can't",
            hint="It takes tasks with one label per row; domain-incremental takes any.",
        )
    study = Study(spec, task, labels, stages, strategies, base.identity)
    return Study(spec, choose_task(task_choice(study)), labels, stages, strategies, base.identity)


def _done(study: Study, works: Sequence[Work], now: Environment, reporter: Reporter) -> Results:
    """What need not be done again."""
    found: Results = {}
    outdated, elsewhere = 0, set()
    for work in works:
        path = study.folder / RUNS / work.id / RESULT
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if result.get("hash") != work.hash:
            outdated += 1
            continue
        if any(need not in found for need in work.needs):
            continue
        unlike = Environment(**result["environment"]).differences(now, same_method=True)
        elsewhere.update(unlike)
        if study.spec.reuse == "any" or not unlike:
            found[work.id] = result
    # Results may be kept without the models, which what is left may need.
    for work in reversed(works):
        if work.id not in found:
            for need in work.needs:
                if not (study.folder / RUNS / need / ARTIFACT).is_dir():
                    found.pop(need, None)
    if outdated:
        reporter.event(f"{outdated} pieces were made with other settings or rows: they are made anew")
    if elsewhere:
        ending = "they are kept" if study.spec.reuse == "any" else "they are made anew (reuse: any keeps them)"
        reporter.event(f"some pieces were made with {'; '.join(sorted(elsewhere))}: {ending}")
    return found


def _keep(study: Study, work: Work, outcome: Mapping[str, Any], environment: Environment) -> None:
    learned = [study.stages[number].name for number in work.learned]
    content = {
        "id": work.id,
        "hash": work.hash,
        "strategy": work.strategy.label,
        "seed": work.seed,
        "learned": learned,
        **outcome,
        "environment": asdict(environment),
    }
    write_text_atomic(study.folder / RUNS / work.id / RESULT, canonical_json(content))


def _all(
    study: Study, waiting: Sequence[Work], done: set[str], jobs: int, reporter: Reporter
) -> Iterator[tuple[Work, dict[str, Any] | str]]:
    """Do pieces of work, each once what it needs is done; gives what each found, or why it failed."""
    if jobs == 1:
        for work in waiting:
            outcome = _outcome(study, work, reporter) if done.issuperset(work.needs) else _WITHOUT
            if not isinstance(outcome, str):
                done.add(work.id)
            yield work, outcome
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        left, failed = list(waiting), set[str]()
        running: dict[Future[dict[str, Any] | str], Work] = {}
        while left or running:
            for work in [one for one in left if done.issuperset(one.needs) or failed.intersection(one.needs)]:
                left.remove(work)
                if failed.intersection(work.needs):
                    failed.add(work.id)
                    yield work, _WITHOUT
                else:
                    running[pool.submit(_outcome, study, work, SilentReporter())] = work
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work = running.pop(future)
                outcome = future.result()
                (failed if isinstance(outcome, str) else done).add(work.id)
                yield work, outcome


_WITHOUT = "what it needs could not be made"


def _begin(threads: int) -> None:
    import torch

    from pefttools.logs import quiet_libraries

    torch.set_num_threads(threads)
    quiet_libraries()


def _outcome(study: Study, work: Work, reporter: Reporter) -> dict[str, Any] | str:
    try:
        return do(study, work, reporter)
    except PeftToolsError as error:
        return f"failed: {error.message}"
    except Exception as error:  # whatever it is, the others go on, and the report says it
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {error}"
