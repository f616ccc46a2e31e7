"""Saving what was trained, as small as changes no prediction, and measuring what was saved."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pefttools.artifact.load import load_verified
from pefttools.artifact.manifest import MANIFEST, Manifest
from pefttools.artifact.save import draft_manifest, seal, to_float16, write_weights
from pefttools.compute.processes import world_size
from pefttools.files import folder_atomic
from pefttools.progress import Reporter
from pefttools.tasks.classes import ClassReport
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

    float16 is kept where the loaded model gives the same predictions on the validation rows. The trained model in
    `fitted` is released before the other is loaded, so that memory need not hold two.
    """
    recipe, task, splits = prepared.recipe, prepared.task, prepared.splits
    selection, parent = prepared.selection, prepared.parent
    draft = draft_manifest(
        fitted.model,
        training={
            "seed": recipe.seed,
            "learning_rate": fitted.learning_rate,
            "head_learning_rate": fitted.head_learning_rate,
            "settings": recipe.training.model_dump(mode="json"),
            "rows": {"train": len(splits.train), "validation": len(splits.validation)},
            "data": splits.digests(),
            "cut": {name: cuts.as_dict() for name, cuts in prepared.examples.cuts.items()},
            "notes": prepared.notes,
            "steps": fitted.steps,
            "best_step": fitted.best_step,
            "seconds": round(fitted.train_seconds, 3),
            "processes": world_size(),
            "selection": {"metric": selection.metric, "greater_is_better": selection.greater_is_better},
            "stopped_early": fitted.stopped_early,
            "did_not_learn": fitted.did_not_learn,
            **({"parent": {"name": parent.folder.resolve().name, "digest": parent.digest}} if parent else {}),
        },
        columns=splits.train.columns,
    )

    def check(folder: Path, storage: str) -> tuple[TunedModel, Evaluation, int]:
        loaded = load_verified(folder, seal(folder, draft, storage), prepared.base)
        with reporter.step(f"evaluating the artifact as {storage}", "rows") as advance:
            evaluation = loaded.spec.task.evaluate(
                loaded, prepared.examples.validation, batch_size=recipe.training.eval_batch_size, progress=advance
            )
        pairs = zip(evaluation.answers(), fitted.validation.answers(), strict=True)
        return loaded, evaluation, sum(now != before for now, before in pairs)

    with folder_atomic(output, over=MANIFEST) as folder:
        write_weights(fitted.model, folder)
        fitted.release()
        storage = "float32"
        with tempfile.TemporaryDirectory() as spare:
            originals = shutil.copytree(folder, Path(spare, "float32"))
            if recipe.storage != "float32":
                lost = to_float16(folder)
                if lost is not None:
                    reporter.event(f"{lost}: stored as float32")
                else:
                    loaded, evaluation, changed = check(folder, "float16")
                    said = f"float16 changes {changed} of {len(evaluation.predictions)} predictions on validation"
                    if changed == 0 or recipe.storage == "float16":
                        storage = "float16"
                        if changed:
                            reporter.event(f"{said}: stored so all the same, as the recipe says")
                    else:
                        reporter.event(f"{said}: stored as float32")
                        del loaded
                        shutil.copytree(originals, folder, dirs_exist_ok=True)
            if storage == "float32":
                loaded, evaluation, changed = check(folder, "float32")
        write_classes(folder, "validation", task.class_report(evaluation, prepared.labels))
        summary = {**draft.training, "predictions_changed_by_reload": changed}
        manifest = seal(folder, draft, storage, training=summary, metrics={"validation": evaluation.metrics})
    return Stored(loaded, manifest, evaluation)


def write_classes(folder: Path, split: str, report: ClassReport | None) -> None:
    """Add a split's scores per class and confusion matrix to an artifact, where there are classes."""
    if report is None:
        return
    path = folder / CLASSES
    others = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = json.dumps({**others, split: report.compact()}, ensure_ascii=False, separators=(",", ":"))
    path.write_text(f"{content}\n", encoding="utf-8")
