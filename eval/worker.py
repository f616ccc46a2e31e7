"""One run in its own process: ``python -m pefttools.eval.worker RUN_FOLDER`` with a planned run on standard input.

Its own process, so that peak memory is its own and a crash is a row of the table. It ends when its parent does:
the parent holds the other end of standard input.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pefttools.errors import DivergedError, PeftToolsError
from pefttools.logs import quiet_libraries

from .pipe import PipeReporter
from .records import ArtifactEntry, Failure, RunRecord, Status, Trial, write_predictions, write_record
from .spec import PlannedRun

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


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
    """Which kind of failure an exception is."""
    message = str(error) or repr(error)
    if isinstance(error, DivergedError):
        return "diverged", Failure(type=type(error).__name__, message=message, step=error.step)
    failure = Failure(type=type(error).__name__, message=message)
    # torch.OutOfMemoryError is a RuntimeError; so is the CPU allocator's, which has no type of its own
    memory = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in message.lower() for text in _OUT_OF_MEMORY)
    )
    return ("oom" if memory else "failed"), failure


def describe(planned: PlannedRun, status: Status, failure: Failure | None, **facts: Any) -> RunRecord:
    """A record with what is known whatever happened."""
    from pefttools.artifact.save import package_versions

    from .hardware import git_revision, hardware

    recipe = planned.recipe
    method, config = recipe.chosen_method()
    task = recipe.chosen_task()
    known: dict[str, Any] = {"base": {"id": recipe.base}, "recipe_hash": planned.hash({})}
    return RunRecord(
        id=planned.id,
        label=planned.label,
        method=method.name,
        config=config.model_dump(mode="json"),
        variant=recipe.variant,
        task=task.name,
        primary_metric=task.primary_metric,
        seed=recipe.seed,
        recipe={**recipe.model_dump(mode="json", exclude={"output"}), "search": planned.search.model_dump()},
        status=status,
        error=failure,
        packages=package_versions(
            (
                "pefttools",
                "torch",
                "transformers",
                "peft",
                "bitsandbytes",
                "accelerate",
                "datasets",
                "evaluate",
            )
        ),
        hardware=hardware(),
        git_revision=git_revision(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **(known | facts),
    )


def _work(planned: PlannedRun, folder: Path, facts: dict[str, Any]) -> None:
    """Train, choose, save, measure; fills `facts` as it goes, so that a failure keeps what was known."""
    from pefttools.training.prepare import build_model, prepare
    from pefttools.training.store import store

    from .gpu import GpuPeaks
    from .memory import peak_rss, profile
    from .search import search

    reporter = PipeReporter()
    recipe = planned.recipe
    prepared = prepare(recipe)
    splits, base, task = prepared.splits, prepared.base, prepared.task
    facts["data"] = splits.digests()
    tables = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    facts["rows"] = {name: len(table) for name, table in tables.items() if table is not None}
    facts["base"] = {
        "id": base.id, "revision": base.revision, "model_type": base.model_type,
        "structure": base.structure, "weights": base.weights, "size": base.size,
    }  # fmt: skip
    facts["recipe_hash"] = planned.hash({**splits.digests(), "base": base.weights})

    gpu = GpuPeaks()
    gpu.begin()
    trials: list[Trial] = []
    facts["trials"] = trials
    best = search(prepared, planned.search, reporter, trials)
    rss = peak_rss()
    gpu.end("training")
    count = best.model.count()
    train_examples = task.encode(splits.train, best.model.tokenizer, prepared.labels)
    facts |= {
        "parameters": {"total": count.total, "trainable": count.trainable, "head": count.head},
        "learning_rate": best.learning_rate,
        "history": best.history,
        "steps": best.steps,
        "best_step": best.best_step,
        "samples": best.samples,
        "tokens": best.tokens,
    }
    facts["seconds"] = {
        "train": round(best.train_seconds, 3),
        "evaluation_in_training": round(best.evaluation_seconds, 3),
    }
    stored = store(prepared, best, reporter, recipe.output)
    facts["validation"] = stored.validation.metrics
    facts["artifact"] = _artifact(recipe.output, folder, base.size, stored.manifest.storage)
    if splits.test is not None:
        examples = task.encode(splits.test, stored.model.tokenizer, prepared.labels)
        gpu.begin()
        begin = time.perf_counter()
        with reporter.step("evaluating on test", "rows") as advance:
            test = task.evaluate(stored.model, examples, batch_size=recipe.training.eval_batch_size, progress=advance)
        facts["seconds"]["evaluation"] = round(time.perf_counter() - begin, 3)
        gpu.end("evaluation")
        facts["test"] = test.metrics
        write_predictions(folder, test.predictions)
    else:
        write_predictions(folder, stored.validation.predictions)
    validation_examples = best.examples
    del stored, best
    reporter.event("measuring memory")
    settings = recipe.training
    facts["memory"] = profile(
        build_model(prepared),
        train_examples,
        settings.batch_size // settings.gradient_accumulation,
        settings.gradient_accumulation,
        settings.eval_batch_size,
        validation_examples,
        rss,
    ).model_copy(update={"cuda": gpu.result})


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
    """Standard input ends when the parent does, however it ended."""
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    try:
        main()
    except PeftToolsError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
