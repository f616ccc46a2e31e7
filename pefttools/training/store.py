"""Saving what was trained, as small as possible without changing a prediction, and measuring what was saved."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.artifact.load import load_verified
from pefttools.artifact.manifest import MANIFEST, Manifest
from pefttools.artifact.save import draft_manifest, finalize, to_float16, write_weights
from pefttools.compute.processes import world_size
from pefttools.files import folder_atomic
from pefttools.progress import Reporter
from pefttools.tasks.labels.classes import ClassReport
from pefttools.tasks.task import Evaluation
from pefttools.training.fit import Fitted
from pefttools.training.prepare import Prepared
from pefttools.tuned import TunedModel

#: scores per class, by split
CLASSES = "classes.json"


@dataclass
class Stored:
    """An artifact on disk and the model that was loaded from it, with its evaluations."""

    model: TunedModel
    manifest: Manifest
    validation: Evaluation
    test: Evaluation | None = None


def store(prepared: Prepared, fitted: Fitted, reporter: Reporter, output: Path) -> Stored:
    """Save the artifact, load it again on a fresh base, and measure that: what is reported is what was saved.

    float16 is kept if the loaded model gives the same predictions on the validation rows. The trained model in
    `fitted` is released before the other is loaded, so that memory need not hold two.
    """
    draft = draft_manifest(fitted.model, training=_training(prepared, fitted), columns=prepared.splits.train.columns)
    with folder_atomic(output, over=MANIFEST) as folder:
        write_weights(fitted.model, folder)
        fitted.release()
        found = _in_float16(prepared, fitted, draft, folder, reporter)
        if found is None:
            found = _reloaded(prepared, fitted, draft, folder, "float32", reporter)
        write_classes(folder, "validation", prepared.task.class_report(found.evaluation, prepared.labels))
        summary = {**draft.training, "predictions_changed_by_reload": found.changed}
        metrics = {"validation": found.evaluation.metrics}
        manifest = finalize(folder, draft, found.storage, training=summary, metrics=metrics)
    return Stored(found.model, manifest, found.evaluation)


@dataclass(frozen=True)
class _Reloaded:
    """A stored model as it was loaded again, and how many of its predictions differ from the trained model's."""

    storage: str
    model: TunedModel
    evaluation: Evaluation
    changed: int


def _training(prepared: Prepared, fitted: Fitted) -> dict[str, Any]:
    """How the model was trained, for the manifest."""
    recipe, splits, parent, selection = prepared.recipe, prepared.splits, prepared.parent, prepared.selection
    return {
        "seed": recipe.seed,
        "learning_rate": fitted.learning_rate,
        "head_learning_rate": fitted.head_learning_rate,
        "settings": recipe.training.model_dump(mode="json"),
        "rows": {"train": len(splits.train), "validation": len(splits.validation)},
        "data": splits.digests(),
        "cut": {name: cuts.as_dict() for name, cuts in prepared.examples.cuts.items()},
        "notes": [*prepared.notes, *prepared.examples.notes],
        "steps": fitted.steps,
        "best_step": fitted.best_step,
        "seconds": round(fitted.train_seconds, 3),
        "processes": world_size(),
        "selection": {"metric": selection.metric, "greater_is_better": selection.greater_is_better},
        "stopped_early": fitted.stopped_early,
        "did_not_learn": fitted.did_not_learn,
        **({"parent": parent.as_dict()} if parent else {}),
    }


def _in_float16(
    prepared: Prepared, fitted: Fitted, draft: Manifest, folder: Path, reporter: Reporter
) -> _Reloaded | None:
    """The model in half the bytes, if the recipe says so or no prediction changes; None if it stays float32."""
    wanted = prepared.recipe.storage
    if wanted == "float32":
        return None
    with tempfile.TemporaryDirectory() as spare:
        originals = shutil.copytree(folder, Path(spare, "float32"))
        if (lost := to_float16(folder)) is not None:
            reporter.event(f"{lost}: stored as float32")
            return None
        found = _reloaded(prepared, fitted, draft, folder, "float16", reporter)
        said = f"float16 changes {found.changed} of {len(found.evaluation.predictions)} predictions on validation"
        if found.changed == 0:
            return found
        if wanted == "float16":
            reporter.event(f"{said}: stored as float16 anyway, as the recipe says")
            return found
        reporter.event(f"{said}: stored as float32")
        shutil.copytree(originals, folder, dirs_exist_ok=True)
    return None


def _reloaded(
    prepared: Prepared, fitted: Fitted, draft: Manifest, folder: Path, storage: str, reporter: Reporter
) -> _Reloaded:
    loaded = load_verified(folder, finalize(folder, draft, storage), prepared.base)
    with reporter.step(f"evaluating the artifact as {storage}", "rows") as advance:
        evaluation = loaded.spec.task.evaluate(
            loaded,
            prepared.examples.validation,
            batch_size=prepared.recipe.training.eval_batch_size,
            progress=advance,
        )
    pairs = zip(evaluation.predictions, fitted.validation.predictions, strict=True)
    return _Reloaded(storage, loaded, evaluation, sum(not now.says(before) for now, before in pairs))


def write_classes(folder: Path, split: str, report: ClassReport | None) -> None:
    """Add a split's scores per class and confusion matrix to an artifact, if there are classes."""
    if report is None:
        return
    path = folder / CLASSES
    others = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = json.dumps({**others, split: report.compact()}, ensure_ascii=False, separators=(",", ":"))
    path.write_text(f"{content}\n", encoding="utf-8")
