"""One training run, from a recipe to an artifact with its test metrics: what ``pefttools train`` does."""

from __future__ import annotations

import shutil

from pefttools.artifact.manifest import MANIFEST
from pefttools.artifact.save import finalize
from pefttools.compute.processes import is_main_process
from pefttools.files import folder_atomic
from pefttools.progress import Reporter
from pefttools.recipe import Recipe
from pefttools.training.fit import fit
from pefttools.training.microbatches import settle_microbatches
from pefttools.training.prepare import prepare
from pefttools.training.resume import check_free, checkpoint_to_resume, remove_checkpoints, work_folder
from pefttools.training.store import Stored, store, write_classes


def train(recipe: Recipe, reporter: Reporter, *, resume: bool = False, overwrite: bool = False) -> Stored | None:
    """Train, save and measure, as ``pefttools train`` does.

    Args:
        recipe: what is trained.
        reporter: told about progress.
        resume: continue from the newest undamaged checkpoint of an interrupted run.
        overwrite: replace the artifact or the checkpoints at the recipe's output.

    Returns:
        What was saved; None on the processes of a distributed run that do not write.

    Raises:
        ConfigError: something exists at the output and was not to be replaced, there is nothing to resume, or a
            checkpoint belongs to a different training run.
    """
    check_free(recipe.output, resume=resume, overwrite=overwrite)
    prepared = prepare(recipe, reporter)
    work = work_folder(recipe.output)
    checkpoint = None
    if resume:
        prepared, checkpoint = checkpoint_to_resume(prepared, work, reporter)
    prepared = settle_microbatches(prepared, reporter)
    if not resume and is_main_process():
        shutil.rmtree(work, ignore_errors=True)
    fitted = fit(prepared, reporter, work, checkpoint=checkpoint)
    if not is_main_process():
        return None
    stored = store(prepared, fitted, reporter, recipe.output)
    test = prepared.examples.test
    if test is not None:
        with reporter.step("evaluating on test", "rows") as advance:
            evaluation = stored.model.spec.task.evaluate(
                stored.model, test, batch_size=recipe.training.eval_batch_size, progress=advance
            )
        stored.test = evaluation
        with folder_atomic(recipe.output, over=MANIFEST) as folder:
            shutil.copytree(recipe.output, folder, dirs_exist_ok=True)
            write_classes(folder, "test", prepared.task.class_report(evaluation, prepared.labels))
            metrics = {**stored.manifest.metrics, "test": evaluation.metrics}
            stored.manifest = finalize(folder, stored.manifest, stored.manifest.storage, metrics=metrics)
    if recipe.training.report_to:
        remove_checkpoints(work)
    else:
        shutil.rmtree(work, ignore_errors=True)
    return stored
