"""One training run, from a recipe to a model and its artifact, in steps that the harness uses too."""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.artifact.load import load_verified
from pefttools.artifact.manifest import Manifest
from pefttools.artifact.save import draft_manifest, seal, to_float16, write_weights
from pefttools.bases import Base, locate_base, variants
from pefttools.data import Splits, load_splits
from pefttools.errors import ConfigError
from pefttools.files import check_writable, folder_atomic
from pefttools.methods import Method, MethodConfig
from pefttools.progress import Reporter
from pefttools.recipe import Recipe
from pefttools.tasks.task import Evaluation, Example, Task
from pefttools.training.checkpoints import latest_checkpoint
from pefttools.training.precision import default_device
from pefttools.tuned import TunedModel, build, check_combination


@dataclass(frozen=True)
class Prepared:
    """A recipe whose parts were found and checked; nothing heavy is loaded yet."""

    recipe: Recipe
    base: Base
    method: Method[Any]
    config: MethodConfig
    task: Task[Any]
    splits: Splits
    labels: list[str]


@dataclass
class Fitted:
    """A trained model.

    Attributes:
        model: with the best state on validation.
        validation: its evaluation there.
        examples: encoded validation examples.
        history: loss and metrics over the steps.
        steps: optimizer steps.
        best_step: step of the state that was kept.
        train_seconds: wall time of the training steps, evaluations left out.
        evaluation_seconds: wall time of the evaluations in between.
        samples: training examples seen.
        tokens: training tokens seen, without padding.
    """

    model: TunedModel
    validation: Evaluation
    examples: list[Example]
    history: list[dict[str, float]]
    steps: int
    best_step: int
    train_seconds: float
    evaluation_seconds: float
    samples: int
    tokens: int
    learning_rate: float

    def release(self) -> None:
        """Let go of the model and its memory."""
        del self.model
        gc.collect()


@dataclass
class Stored:
    """An artifact on disk and the model that was loaded from it, with its evaluations."""

    model: TunedModel
    manifest: Manifest
    validation: Evaluation
    test: Evaluation | None = None


def prepare(recipe: Recipe) -> Prepared:
    """Check all that can be checked before a model is loaded.

    Raises:
        PeftToolsError: anything wrong with names, options, their combination, the data or the output folder.
    """
    method, config = recipe.chosen_method()
    task = recipe.chosen_task()
    check_combination(method, config, variants.get(recipe.variant)(), task.name)
    if recipe.training.gradient_checkpointing and not method.capabilities.gradient_checkpointing:
        raise ConfigError(
            f"the method {method.name!r} can't train with gradient checkpointing",
            hint="Set training.gradient_checkpointing=false for it.",
        )
    if recipe.training.batch_size % (recipe.training.gradient_accumulation * _world_size()):
        raise ConfigError(
            f"training.batch_size={recipe.training.batch_size} can't be divided by gradient_accumulation="
            f"{recipe.training.gradient_accumulation} times {_world_size()} processes"
        )
    check_writable(recipe.output)
    base = locate_base(recipe.base, recipe.revision)
    splits = load_splits(recipe.data, task.roles)
    labels = task.labels(splits.train)
    for table in (splits.train, splits.validation, splits.test):
        if table is not None:
            task.check(table, labels)
    return Prepared(recipe, base, method, config, task, splits, labels)


def fit(prepared: Prepared, reporter: Reporter, work: Path, *, learning_rate: float | None = None,
        resume: bool = False) -> Fitted:  # fmt: skip
    """Train a model.

    Args:
        prepared: what and on what.
        reporter: told of progress.
        work: folder for checkpoints and trackers' files.
        learning_rate: instead of the recipe's and the method's.
        resume: go on from the newest whole checkpoint in `work`.

    Raises:
        DivergedError: the loss was not finite.
    """
    from transformers import set_seed

    from pefttools.training.trainer import TuningTrainer

    recipe, settings, task = prepared.recipe, prepared.recipe.training, prepared.task
    rate = learning_rate or settings.learning_rate or prepared.method.learning_rate
    set_seed(recipe.seed)
    model = build_model(prepared)
    count = model.count()
    reporter.event(
        f"{prepared.method.name} on {prepared.base.id} ({recipe.variant}): {count.trainable:,} trained of "
        f"{count.total:,} parameters, learning rate {rate:g}"
    )
    train = task.encode(prepared.splits.train, model.tokenizer, prepared.labels)
    validation = task.encode(prepared.splits.validation, model.tokenizer, prepared.labels)
    if not prepared.method.capabilities.trains:
        return _as_it_is(model, task, validation, settings.eval_batch_size, reporter)
    with reporter.step(f"training {prepared.method.name}", "steps") as advance:
        arguments = _arguments(recipe, len(train), rate, work)
        trainer = TuningTrainer(model, arguments, settings, rate, train, validation, advance)
        checkpoint = latest_checkpoint(work) if resume else None
        if checkpoint is not None:
            reporter.event(f"going on from {checkpoint}")
        evaluating = _Stopwatch(trainer)
        start = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.perf_counter() - start
    if settings.keep_best:
        trainer.restore_best()
    evaluation = Evaluation({}, [])
    if is_main_process():
        with reporter.step("evaluating on validation", "rows") as advance:
            evaluation = task.evaluate(model, validation, batch_size=settings.eval_batch_size, progress=advance)
    state = trainer.state
    passes = state.epoch or 0.0
    return Fitted(
        model=model,
        validation=evaluation,
        examples=validation,
        history=trainer.history,
        steps=state.global_step,
        best_step=trainer.best_step if settings.keep_best else state.global_step,
        train_seconds=seconds - evaluating.seconds,
        evaluation_seconds=evaluating.seconds,
        samples=round(passes * len(train)),
        tokens=round(passes * sum(len(example["input_ids"]) for example in train)),
        learning_rate=rate,
    )


def _as_it_is(
    model: TunedModel, task: Task[Any], validation: list[Example], batch_size: int, reporter: Reporter
) -> Fitted:
    with reporter.step("evaluating on validation", "rows") as advance:
        evaluation = task.evaluate(model, validation, batch_size=batch_size, progress=advance)
    return Fitted(model, evaluation, validation, [], 0, 0, 0.0, 0.0, 0, 0, 0.0)


def build_model(prepared: Prepared) -> TunedModel:
    """The model of a recipe, ready to be trained."""
    recipe = prepared.recipe
    return build(
        prepared.base,
        recipe.variant,
        prepared.method,
        prepared.config,
        prepared.task,
        prepared.labels,
        precision=recipe.training.precision,
        seed=recipe.seed,
        pairs="pair" in prepared.splits.train.columns,
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        device=default_device(),
    )


def store(prepared: Prepared, fitted: Fitted, reporter: Reporter, output: Path) -> Stored:
    """Save the artifact, load it again on a fresh base, and measure that: what is reported is what was saved.

    float16 is kept where the loaded model gives the same predictions on the validation rows. The trained model in
    `fitted` is released before the other is loaded, so that memory need not hold two.
    """
    recipe, task, splits = prepared.recipe, prepared.task, prepared.splits
    draft = draft_manifest(
        fitted.model,
        training={
            "seed": recipe.seed,
            "learning_rate": fitted.learning_rate,
            "settings": recipe.training.model_dump(mode="json"),
            "rows": {"train": len(splits.train), "validation": len(splits.validation)},
            "data": splits.digests(),
            "steps": fitted.steps,
            "best_step": fitted.best_step,
            "seconds": round(fitted.train_seconds, 3),
        },
        columns=splits.train.columns,
    )

    def check(folder: Path, storage: str) -> tuple[TunedModel, Evaluation, int]:
        loaded = load_verified(folder, seal(folder, draft, storage), prepared.base)
        with reporter.step(f"evaluating the artifact as {storage}", "rows") as advance:
            evaluation = task.evaluate(
                loaded, fitted.examples, batch_size=recipe.training.eval_batch_size, progress=advance
            )
        pairs = zip(evaluation.answers(), fitted.validation.answers(), strict=True)
        return loaded, evaluation, sum(now != before for now, before in pairs)

    with folder_atomic(output) as folder:
        write_weights(fitted.model, folder)
        fitted.release()
        storage = "float32"
        with tempfile.TemporaryDirectory() as spare:
            originals = shutil.copytree(folder, Path(spare, "float32"))
            if recipe.storage != "float32" and to_float16(folder):
                loaded, evaluation, changed = check(folder, "float16")
                if recipe.storage == "float16" or changed == 0:
                    storage = "float16"
                else:
                    reporter.event(f"float16 changes {changed} predictions on validation: stored as float32")
                    del loaded
                    shutil.copytree(originals, folder, dirs_exist_ok=True)
            if storage == "float32":
                loaded, evaluation, changed = check(folder, "float32")
        summary = {**draft.training, "predictions_changed_by_reload": changed}
        manifest = seal(folder, draft, storage, training=summary, metrics={"validation": evaluation.metrics})
    return Stored(loaded, manifest, evaluation)


def train(recipe: Recipe, reporter: Reporter, *, resume: bool = False) -> Stored | None:
    """Train, save and measure, as ``pefttools train`` does.

    Returns:
        What was saved; None on the processes of a distributed run that do not write.
    """
    prepared = prepare(recipe)
    work = recipe.output.with_name(f"{recipe.output.name}.training")
    if not resume and is_main_process():
        shutil.rmtree(work, ignore_errors=True)
    fitted = fit(prepared, reporter, work, resume=resume)
    if not is_main_process():
        return None
    stored = store(prepared, fitted, reporter, recipe.output)
    test = prepared.splits.test
    if test is not None:
        examples = prepared.task.encode(test, stored.model.tokenizer, prepared.labels)
        with reporter.step("evaluating on test", "rows") as advance:
            evaluation = prepared.task.evaluate(
                stored.model, examples, batch_size=recipe.training.eval_batch_size, progress=advance
            )
        stored.test = evaluation
        with folder_atomic(recipe.output) as folder:
            shutil.copytree(recipe.output, folder, dirs_exist_ok=True)
            metrics = {**stored.manifest.metrics, "test": evaluation.metrics}
            stored.manifest = seal(folder, stored.manifest, stored.manifest.storage, metrics=metrics)
    if not recipe.training.report_to:
        shutil.rmtree(work, ignore_errors=True)
    return stored


def is_main_process() -> bool:
    """Whether this process writes: the first of a distributed run, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _arguments(recipe: Recipe, examples: int, learning_rate: float, work: Path) -> Any:
    from transformers import TrainingArguments

    settings = recipe.training
    steps_per_epoch = math.ceil(examples / settings.batch_size)
    total = settings.max_steps or math.ceil(steps_per_epoch * settings.epochs)
    every = max(1, total // settings.evaluations) if settings.evaluations else min(steps_per_epoch, total)
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=settings.batch_size // settings.gradient_accumulation // _world_size(),
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * total),
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_gradient_norm,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps" if settings.checkpoints else "no",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, total // 50),
        logging_nan_inf_filter=False,
        report_to=settings.report_to or "none",
        disable_tqdm=True,
        seed=recipe.seed,
        data_seed=recipe.seed,
        remove_unused_columns=False,
        use_cpu=default_device().type == "cpu",
        dataloader_pin_memory=default_device().type != "cpu",
        ddp_timeout=6 * 3600,
        ddp_find_unused_parameters=False,
        log_level="error",
    )


class _Stopwatch:
    """Counts the wall time that a trainer spends in evaluations."""

    def __init__(self, trainer: Any) -> None:
        self.seconds = 0.0
        inner = trainer.evaluate

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        trainer.evaluate = timed
