"""One training run, from a recipe to an artifact with its test metrics: what ``pefttools train`` does."""

from __future__ import annotations

import shutil

from pefttools.artifact.manifest import MANIFEST
from pefttools.artifact.save import seal
from pefttools.files import folder_atomic
from pefttools.progress import Reporter
from pefttools.recipe import Recipe
from pefttools.training.fit import fit
from pefttools.training.parts import settle_parts
from pefttools.training.prepare import prepare
from pefttools.training.processes import is_main_process
from pefttools.training.store import Stored, store


def train(recipe: Recipe, reporter: Reporter, *, resume: bool = False) -> Stored | None:
    """Train, save and measure, as ``pefttools train`` does.

    Returns:
        What was saved; None on the processes of a distributed run that do not write.
    """
    prepared = settle_parts(prepare(recipe), reporter)
    work = recipe.output.with_name(f"{recipe.output.name}.training")
    if not resume and is_main_process():
        shutil.rmtree(work, ignore_errors=True)
    fitted = fit(prepared, reporter, work, resume=resume)
    if not is_main_process():
        return None
    stored = store(prepared, fitted, reporter, recipe.output)
    test = prepared.examples.test
    if test is not None:
        with reporter.step("evaluating on test", "rows") as advance:
            evaluation = prepared.task.evaluate(
                stored.model, test, batch_size=recipe.training.eval_batch_size, progress=advance
            )
        stored.test = evaluation
        with folder_atomic(recipe.output, over=MANIFEST) as folder:
            shutil.copytree(recipe.output, folder, dirs_exist_ok=True)
            metrics = {**stored.manifest.metrics, "test": evaluation.metrics}
            stored.manifest = seal(folder, stored.manifest, stored.manifest.storage, metrics=metrics)
    if not recipe.training.report_to:
        shutil.rmtree(work, ignore_errors=True)
    return stored
