"""One piece of work: a training from the stage before, a joint one, a merge, or a router's choice."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from pefttools.artifact.load import load_artifact
from pefttools.progress import Reporter
from pefttools.recipe import Recipe, validate
from pefttools.training.run import train
from pefttools.training.selection import choose_selection
from pefttools.tuned import TunedModel

from ..row_files import read_rows, write_rows
from .buffer import Balanced, Reservoir
from .evaluating import evaluated, rows_of, task_choice
from .plan import ARTIFACT, RUNS, Study, Work
from .routing import routed_scores
from .stages import DATA
from .strategies import Changes, Keeping, Place

#: score of each stage by its number, as text; of a router, such scores for each order and number of stages learned
Scores = dict[str, Any]


def do(study: Study, work: Work, reporter: Reporter) -> Scores:
    """Do it; what is trained stays in its folder.

    Returns:
        ``scores``, ``seconds`` and, if it was trained, why the model ``did_not_learn``, or None.

    Raises:
        PeftToolsError: anything that can go wrong with a training.
    """
    start = time.perf_counter()
    found: Scores = {}
    if work.strategy.kind == "routed":
        artifacts = [_artifact(study, one) for one in work.needs]
        found["scores"] = routed_scores(study, artifacts, work.seed)
    else:
        model = _merged(study, work) if work.strategy.kind == "merged" else _trained(study, work, reporter, found)
        found["scores"] = _scores(study, work, model)
    return {**found, "seconds": round(time.perf_counter() - start, 3)}


def _artifact(study: Study, name: str) -> Path:
    return study.folder / RUNS / name / ARTIFACT


def _trained(study: Study, work: Work, reporter: Reporter, found: Scores) -> TunedModel:
    output = _artifact(study, work.id)
    shutil.rmtree(output, ignore_errors=True)
    stored = train(_recipe(study, work, output), reporter)
    assert stored is not None, "one process trains"
    found["did_not_learn"] = stored.manifest.training.get("did_not_learn")
    return stored.model


def _merged(study: Study, work: Work) -> TunedModel:
    from pefttools.artifact.convert import SUM, compose

    options, output = work.strategy.options, _artifact(study, work.id)
    kept = {} if options.rule == SUM else {"density": options.density, "rank": options.rank}
    folders = [_artifact(study, one) for one in work.needs]
    compose(folders, [options.weight] * len(folders), output, rule=options.rule, seed=work.seed, overwrite=True, **kept)
    return load_artifact(output)


def _recipe(study: Study, work: Work, output: Path) -> Recipe:
    spec, learned = study.spec, work.learned
    changes = Changes(goes_on=False)
    if work.strategy.kind == "chained" and work.needs:
        place = Place(
            _artifact(study, work.needs[0]),
            study.groups(learned[:-1]),
            lambda size, keeping: _kept(study, learned[:-1], size, keeping, work.seed),
        )
        changes = work.strategy.next_stage(place)
    stages = [study.stages[number] for number in (learned if work.strategy.kind == "joint" else learned[-1:])]
    objectives = spec.objective if isinstance(spec.objective, list) else [spec.objective]
    if changes.objective is not None:
        objectives = [*objectives, dict(changes.objective)]
    recipe = {
        "base": spec.base,
        "revision": spec.revision,
        "variant": spec.variant,
        "method": spec.method,
        "task": _task(study, work),
        "objective": objectives,
        "data": {
            "train": [str(stage.files["train"]) for stage in stages] + [str(path) for path in changes.rows],
            "validation": [str(stage.files["validation"]) for stage in stages],
        },
        "from": str(_artifact(study, work.needs[0])) if changes.goes_on and work.needs else None,
        "training": {**spec.training.model_dump(mode="json"), "checkpoints": False},
        "selection": spec.selection.model_dump(mode="json"),
        "seed": work.seed,
        "output": str(output),
    }
    return validate(Recipe, recipe, work.id)


def _task(study: Study, work: Work) -> dict[str, Any]:
    """The task of a training; where a row's stage is known, validation is answered with the new stage's labels."""
    choice = task_choice(study, work.learned)
    if study.spec.scenario == "task-incremental" and work.strategy.kind != "joint":
        choice["answers"] = list(study.stages[work.learned[-1]].labels)
    return choice


def _kept(study: Study, learned: tuple[int, ...], size: int, keeping: Keeping, seed: int) -> Path:
    """File of rows of the stages that were learned, kept as they came by."""
    name = "-".join([keeping, str(size), ".".join(str(number + 1) for number in learned), f"seed{seed}"])
    path = study.folder / DATA / f"{name}.parquet"
    buffer: Reservoir[dict[str, Any]] | Balanced[dict[str, Any]]
    buffer = Reservoir(size, seed) if keeping == "reservoir" else Balanced(size, seed, study.task.strata)
    for number in learned:
        buffer.add(read_rows(study.stages[number].files["train"]))
    write_rows(path, buffer.rows)
    return path


def _scores(study: Study, work: Work, model: TunedModel) -> Scores:
    """Score of every stage."""
    metric = choose_selection(study.spec.selection, study.task).metric
    found: Scores = {}
    for number in range(len(study.stages)):
        answers = study.answers(work.learned, number)
        found[str(number)] = evaluated(study, model, rows_of(study, number, "test"), answers).metrics[metric]
    return found
