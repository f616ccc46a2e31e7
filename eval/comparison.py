"""A comparison: every run in its own process, records that are kept, and a report at the end."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pefttools.errors import ConfigError, TrainingError
from pefttools.files import canonical_json, check_writable, write_text_atomic
from pefttools.progress import Advance, Reporter, SilentReporter
from pefttools.recipe import validate

from .cards import Cards, visible_cards
from .environment import Environment, this_environment
from .pipe import parse
from .records import LOG, RUNS, SUMMARY, Failure, RunRecord, read_record, write_record
from .robustness import check_conditions
from .spec import BenchSpec, PlannedRun, load_spec, plan

_GIB = 2**30


@dataclass
class Outcome:
    """The result of a comparison: its folder, its records by run id, and the files of its report.

    A notebook shows it as the report's table with what it says.
    """

    folder: Path
    records: dict[str, RunRecord] = field(repr=False)
    report: dict[str, Path] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """The report's table: a mapping of names to plain values per method, as in its CSV file."""
        from .reporting import load_report
        from .reporting.tables import flat

        data = load_report(self.folder)
        return [flat(row, data.metric) for row in data.rows]

    def _repr_html_(self) -> str:
        from .reporting import load_report
        from .reporting.fragment import to_fragment

        return to_fragment(load_report(self.folder))


def bench(
    spec: BenchSpec | str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    share_cards: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Run a comparison, or what is left of it.

    Args:
        spec: a `BenchSpec`, the path of a YAML file, or a mapping of the same form.
        overrides: ``field.field=value`` on a YAML file.
        jobs: number of concurrent runs, as far as memory allows; the processor's threads are shared among them, and
            each has its own GPU.
        share_cards: allow more jobs than GPUs; their times and GPU memory are then not theirs alone.
        reporter: shows progress.

    Raises:
        ConfigError: anything wrong with the spec or with one of its runs; nothing has been run then.
        TrainingError: no run succeeded.
    """
    if isinstance(spec, str | Path):
        spec = load_spec(Path(spec), overrides)
    elif not isinstance(spec, BenchSpec):
        spec = validate(BenchSpec, dict(spec), "spec")
    reporter = reporter or SilentReporter()
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: it must be at least 1")
    cards = Cards(visible_cards(), jobs, share=share_cards)
    runs = plan(spec)
    if spec.baseline not in {run.label for run in runs}:
        reporter.event(f"no method is labelled {spec.baseline!r}: nothing is compared with a baseline")
    check_writable(spec.output / SUMMARY)
    hashes = check_runs(runs, reporter)
    summary = {
        **spec.model_dump(mode="json"),
        "runs": [run.id for run in runs],
        "rows": {run.id: [run.label, run.recipe.variant] for run in runs},
    }
    write_text_atomic(spec.output / SUMMARY, canonical_json(summary))

    records = _done(spec, runs, hashes, reporter)
    waiting = [run for run in runs if run.id not in records]
    if records:
        reporter.event(f"{len(records)} of {len(runs)} runs are already done: {len(waiting)} are left")
    records |= _Pool(spec.output, waiting, jobs, cards, reporter).run()

    from .reporting import write_report

    outcome = Outcome(spec.output, {run.id: records[run.id] for run in runs})
    if not any(record.status == "ok" for record in outcome.records.values()):
        first = next(iter(outcome.records.values()))
        raise TrainingError(
            f"no run succeeded; the first, {first.id}: {first.error.message if first.error else first.status}",
            hint=f"See {spec.output / RUNS / first.id / LOG}.",
        )
    outcome.report = write_report(spec.output)
    return outcome


def _done(
    spec: BenchSpec, runs: Sequence[PlannedRun], hashes: Mapping[str, str], reporter: Reporter
) -> dict[str, RunRecord]:
    """Records of the runs that need not be repeated."""
    now: dict[type, Environment] = {}
    done: dict[str, RunRecord] = {}
    outdated = 0
    elsewhere: dict[str, list[str]] = {}
    for run in runs:
        record = read_record(spec.output / RUNS / run.id)
        # A crash may have been the machine's fault; a divergence is a result.
        if record is None or record.status not in ("ok", "diverged"):
            continue
        if record.recipe_hash != hashes[run.id]:
            outdated += record.status == "ok"
            continue
        method = type(run.recipe.chosen_method()[0])
        if method not in now:
            now[method] = this_environment(method)
        differences = record.environment.differences(now[method], same_method=True)
        for difference in differences:
            elsewhere.setdefault(difference, []).append(run.id)
        if spec.reuse == "any" or not differences:
            done[run.id] = record
    if outdated:
        reporter.event(
            f"{outdated} runs in {spec.output / RUNS} were made with other settings or data: they are repeated and "
            "replaced"
        )
    if elsewhere:
        count = len({one for ids in elsewhere.values() for one in ids})
        ending = (
            "they are kept, and the report marks them"
            if spec.reuse == "any"
            else "they are repeated (reuse: any keeps them)"
        )
        reporter.event(f"{count} runs were made with {'; '.join(sorted(elsewhere))}: {ending}")
    return done


def check_runs(runs: Sequence[PlannedRun], reporter: Reporter | None = None) -> dict[str, str]:
    """Check every run before the first starts.

    Args:
        runs: the runs.
        reporter: shows progress where rows are looked up.

    Returns:
        Run id -> hash of everything that determines its result.

    Raises:
        PeftToolsError: a run that could not work.
    """
    from pefttools.training.prepare import prepare

    hashes = {}
    for run in runs:
        prepared = prepare(run.recipe, reporter)
        if run.search.head_learning_rate > 1 and not prepared.labels:
            raise ConfigError(
                f"search.head_learning_rate={run.search.head_learning_rate}: the task {prepared.task.name!r} trains no "
                "head"
            )
        check_conditions(run.robustness, prepared)
        hashes[run.id] = run.hash(prepared.digests())
    return hashes


@dataclass
class _Worker:
    run: PlannedRun
    process: subprocess.Popen[bytes]
    log: IO[str]
    card: str | None
    state: str = "starting"
    rest: bytes = b""


class _Pool:
    """Concurrent workers, limited by number and by memory."""

    def __init__(self, output: Path, waiting: list[PlannedRun], jobs: int, cards: Cards, reporter: Reporter) -> None:
        self.output = output
        self.waiting = list(waiting)
        self.jobs = jobs
        self.cards = cards
        self.reporter = reporter
        self.total = len(waiting)
        self.workers: list[_Worker] = []
        self.records: dict[str, RunRecord] = {}
        self.selector = selectors.DefaultSelector()
        self.largest = 0

    def run(self) -> dict[str, RunRecord]:
        """Run everything that is waiting, and return the records."""
        with self.reporter.step("comparison", "runs") as advance:
            try:
                while self.waiting or self.workers:
                    while self.waiting and len(self.workers) < self.jobs and self._room():
                        self._start(self.waiting.pop(0))
                    self._listen()
                    self._reap()
                    self._show(advance)
            finally:
                for worker in self.workers:
                    worker.process.kill()
                    worker.process.wait()
                    worker.log.close()
        return self.records

    def _room(self) -> bool:
        """Whether memory suffices for one more; a first run may always try."""
        import psutil

        if not self.workers:
            return True
        from pefttools.bases import locate_base

        recipe = self.waiting[0].recipe
        guess = self.largest or 4 * locate_base(recipe.base, recipe.revision).size + _GIB
        return bool(psutil.virtual_memory().available > 1.2 * guess)

    def _start(self, run: PlannedRun) -> None:
        folder = self.output / RUNS / run.id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        card = self.cards.take()
        process = subprocess.Popen(
            # -P: a folder called pefttools in the working directory must not be imported instead.
            [sys.executable, "-P", "-m", "pefttools.eval.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", **self.cards.environment(card)},
        )
        assert process.stdin is not None and process.stdout is not None
        # Left open: a worker exits when it is closed, which happens when this process ends, however it ends.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(run.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        worker = _Worker(run, process, (folder / LOG).open("w", encoding="utf-8"), card)
        self.workers.append(worker)
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)
        self.reporter.event(f"{run.id}: started")

    def _listen(self) -> None:
        for key, _ in self.selector.select(timeout=0.5):
            worker: _Worker = key.data
            # Not readline: the selector would not see what it buffers.
            content = os.read(key.fd, 1 << 16)
            if not content:
                self.selector.unregister(key.fileobj)
            *lines, worker.rest = (worker.rest + content).split(b"\n")
            for line in lines if content else [*lines, worker.rest]:
                progress, text = parse(line.decode("utf-8", errors="replace"))
                if progress is not None:
                    worker.state = progress
                elif text:
                    worker.log.write(f"{text}\n")
                    worker.log.flush()

    def _reap(self) -> None:
        for worker in list(self.workers):
            code = worker.process.poll()
            registered = worker.process.stdout in [key.fileobj for key in self.selector.get_map().values()]
            if code is None or registered:
                continue
            self.workers.remove(worker)
            self.cards.give(worker.card)
            worker.log.close()
            folder = self.output / RUNS / worker.run.id
            record = read_record(folder)
            if record is None:
                record = _lost(worker, code)
                write_record(folder, record)
            self.records[worker.run.id] = record
            if record.memory is not None:
                self.largest = max(self.largest, record.memory.peak_rss)
            self.reporter.event(f"{worker.run.id}: {_summary(record)}")

    def _show(self, advance: Advance) -> None:
        note = "; ".join(f"{worker.run.label} ({worker.run.recipe.variant}): {worker.state}" for worker in self.workers)
        # Only runs that are made now: the remaining time is estimated from how long they take.
        advance(len(self.records), self.total, note)


def _lost(worker: _Worker, code: int) -> RunRecord:
    """A record for a worker that left none."""
    from .worker import describe

    killed = code == -9
    message = (
        "the process was killed by signal 9, most likely by the system because memory ran out"
        if killed
        else f"the process exited with code {code} and left no record"
    )
    return describe(worker.run, "oom" if killed else "failed", Failure(type="Lost", message=message))


def _summary(record: RunRecord) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.error.message.splitlines()[0] if record.error else ''}"
    parts = [f"{record.primary_metric} {record.score:.4f}" if record.score is not None else "no score"]
    if record.did_not_learn is not None:
        parts.append(f"DID NOT LEARN: {record.did_not_learn}")
    parts.append(f"{record.seconds.get('train', 0):.0f} s of training")
    if record.busy_machine:
        parts.append(f"on a busy machine (its main thread ran {100 * (record.busy_share or 0):.0f} % of that time)")
    if record.memory is not None:
        parts.append(f"peak {record.memory.training.peak / 2**20:.0f} MiB counted")
    return ", ".join(parts)
