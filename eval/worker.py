"""One run in its own process: ``python -m pefttools.eval.worker RUN_FOLDER`` with a planned run on standard input.

In its own process, so that peak memory is its own and a crash is a row of the table. It exits when its parent does:
the parent holds the other end of standard input.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.errors import DivergedError, PeftToolsError, WontFitError, is_out_of_memory
from pefttools.logs import quiet_libraries

from .cards import card_facts
from .pipe import PipeReporter
from .records import ArtifactEntry, Failure, RunRecord, Status, Trial, write_predictions, write_record
from .row_values import write_row_values
from .spec import PlannedRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pefttools.progress import Reporter
    from pefttools.tasks.task import Evaluation, Example
    from pefttools.training.fit import Fitted
    from pefttools.training.prepare import Prepared
    from pefttools.tuned import TunedModel

    from .gpu import GpuPeaks


def main() -> None:
    """Read the run, do it, write its record."""
    folder = Path(sys.argv[1])
    planned = PlannedRun.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    quiet_libraries()
    write_record(folder, run(planned, folder))


def run(planned: PlannedRun, folder: Path) -> RunRecord:
    """Do one run; whatever happens becomes a record."""
    start = time.perf_counter()
    facts: dict[str, Any] = {}
    try:
        _work(planned, folder, facts)
        status: Status = "ok"
        failure = None
    except Exception as error:
        traceback.print_exc()
        status, failure = classify(error)
    facts.setdefault("seconds", {})["total"] = round(time.perf_counter() - start, 3)
    return describe(planned, status, failure, **facts)


def classify(error: BaseException) -> tuple[Status, Failure]:
    """The kind of failure that an exception is."""
    message = str(error) or repr(error)
    if isinstance(error, DivergedError):
        return "diverged", Failure(type=type(error).__name__, message=message, step=error.step)
    failure = Failure(type=type(error).__name__, message=message)
    if isinstance(error, WontFitError):
        return "oom", failure
    return ("oom" if is_out_of_memory(error) else "failed"), failure


def describe(planned: PlannedRun, status: Status, failure: Failure | None, **facts: Any) -> RunRecord:
    """A record with everything that is known regardless of what happened."""
    from pefttools.artifact.save import package_versions
    from pefttools.training.selection import choose_selection

    from .environment import PACKAGES, code_digest
    from .hardware import git_revision, hardware

    recipe = planned.recipe
    method, config = recipe.chosen_method()
    task = recipe.chosen_task()
    selection = choose_selection(recipe.selection, task)
    known: dict[str, Any] = {"base": {"id": recipe.base}, "recipe_hash": planned.hash({})}
    return RunRecord(
        id=planned.id,
        label=planned.label,
        method=method.name,
        config=config.model_dump(mode="json"),
        variant=recipe.variant,
        task=task.name,
        primary_metric=selection.metric,
        greater_is_better=selection.greater_is_better,
        seed=recipe.seed,
        recipe={**recipe.model_dump(mode="json", exclude={"output"}), "search": planned.search.model_dump()},
        status=status,
        error=failure,
        packages=package_versions(PACKAGES),
        code=code_digest(),
        method_code=code_digest(type(method)),
        hardware={**hardware(), **card_facts()},
        git_revision=git_revision(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **(known | facts),
    )


def _work(planned: PlannedRun, folder: Path, facts: dict[str, Any]) -> None:
    """Train, choose, save, measure; fills `facts` as it goes, so that a failure keeps what was known."""
    from pefttools.system import peak_rss
    from pefttools.training.microbatches import settle_microbatches
    from pefttools.training.prepare import prepare
    from pefttools.training.store import store

    from .gpu import GpuPeaks
    from .prediction import check_fits
    from .robustness import measure
    from .search import search

    reporter = PipeReporter()
    prepared = settle_microbatches(prepare(planned.recipe, reporter), reporter)
    facts |= {**_inputs(planned, prepared), "accumulation": prepared.recipe.training.microbatches}

    if planned.memory_check:
        check_fits(prepared, reporter)

    gpu = GpuPeaks()
    gpu.begin()
    trials: list[Trial] = []
    facts["trials"] = trials
    best = search(prepared, planned.search, reporter, trials)
    rss = peak_rss()
    gpu.end("training")
    facts |= _training(best)

    stored = store(prepared, best, reporter, prepared.recipe.output)
    facts["validation"] = stored.validation.metrics
    facts["artifact"] = _artifact(prepared.recipe.output, folder, prepared.base.size, stored.manifest.storage)
    final = stored.validation
    if prepared.examples.test is not None:
        gpu.begin()
        test, seconds = _test(prepared, prepared.examples.test, stored.model, reporter)
        gpu.end("evaluation")
        facts["seconds"]["evaluation"] = seconds
        facts["test"] = test.metrics
        final = test
    facts["robustness"], under = measure(planned.robustness, prepared, stored.model, reporter)
    facts |= _measured(prepared, final, folder, under)

    del stored, best  # memory is measured without them
    _measure_memory(prepared, rss, gpu, reporter, facts)


def _measured(prepared: Prepared, final: Evaluation, folder: Path, under: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Write what will be compared, under each condition too, and describe its metrics."""
    report = prepared.task.class_report(final, prepared.labels)
    write_predictions(folder, final.entries())
    # Not for other metrics: one from another library may take minutes, and this leaves rows out fifty times.
    if (values := final.row_values(prepared.selection.metric)) is not None:
        write_row_values(folder, prepared.selection.metric, values, under)
    return {
        "fewest_rows": min((one.rows for one in report.classes if one.rows), default=None) if report else None,
        "measures": {
            metric.name: asdict(replace(metric.measure, signature=metric.signature)) for metric in final.measured
        },
    }


def _measure_memory(prepared: Prepared, rss: int, gpu: GpuPeaks, reporter: PipeReporter, facts: dict[str, Any]) -> None:
    """Profile a step of the same training, and predict it for comparison; running out of memory is noted."""
    from pefttools.training.prepare import build_model
    from pefttools.training.sampler import largest_batch

    from .memory import profile
    from .prediction import predict

    reporter.event("measuring memory")
    settings, train, task = prepared.recipe.training, prepared.examples.train, prepared.task
    batch = largest_batch(train, task.sizes(train), settings.batch_size, prepared.passes)
    try:
        memory = profile(build_model(prepared), batch, settings, prepared.examples.validation, rss)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The run is done, and its results are valid: only the memory figures are missing.
        note = f"memory could not be measured: {str(error).splitlines()[0]}"
        reporter.event(note)
        facts["notes"] = [*facts["notes"], note]
        return
    predicted, warning = predict(prepared, batch, memory.training)
    if warning is not None:
        reporter.event(warning)
    facts["memory"] = memory.model_copy(update={"cuda": gpu.result, "predicted": predicted})


def _inputs(planned: PlannedRun, prepared: Prepared) -> dict[str, Any]:
    """The inputs of the run: data, base, and the hash of all of it."""
    splits, base = prepared.splits, prepared.base
    tables = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "data": splits.digests(),
        "rows": {name: len(table) for name, table in tables.items() if table is not None},
        "cut": {name: cuts.as_dict() for name, cuts in prepared.examples.cuts.items()},
        "notes": [*prepared.notes, *prepared.examples.notes],
        "base": {
            "id": base.id,
            "revision": base.revision,
            "model_type": base.model_type,
            "structure": base.structure,
            "weights": base.weights,
            "size": base.size,
        },
        "recipe_hash": planned.hash(prepared.digests()),
    }


def _training(best: Fitted) -> dict[str, Any]:
    """How the chosen training went."""
    count = best.model.count()
    return {
        "parameters": {"total": count.total, "trainable": count.trainable, "head": count.head},
        "learning_rate": best.learning_rate,
        "head_learning_rate": best.head_learning_rate,
        "history": best.history,
        "steps": best.steps,
        "best_step": best.best_step,
        "samples": best.samples,
        "tokens": best.tokens,
        "stopped_early": best.stopped_early,
        "did_not_learn": best.did_not_learn,
        "busy_share": None if best.busy_share is None else round(best.busy_share, 3),
        "seconds": {
            "train": round(best.train_seconds, 3),
            "train_cpu": round(best.cpu_seconds, 3),
            "evaluation_in_training": round(best.evaluation_seconds, 3),
        },
    }


def _test(
    prepared: Prepared, examples: Sequence[Example], model: TunedModel, reporter: Reporter
) -> tuple[Evaluation, float]:
    """The single evaluation on the test split, and its seconds."""
    batch_size = prepared.recipe.training.eval_batch_size
    begin = time.perf_counter()
    with reporter.step("evaluating on test", "rows") as advance:
        test = model.spec.task.evaluate(model, examples, batch_size=batch_size, progress=advance)
    return test, round(time.perf_counter() - begin, 3)


def _artifact(path: Path, folder: Path, base_size: int, storage: str) -> ArtifactEntry:
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    return ArtifactEntry(
        path=str(path.relative_to(folder)),
        bytes=sum(sizes.values()),
        weights_bytes=weights,
        storage=storage,
        share_of_base=weights / base_size,
    )


def _die_with_parent() -> None:
    """Exit when standard input ends, which it does when the parent ends, however it ended."""
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    try:
        main()
    except PeftToolsError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
