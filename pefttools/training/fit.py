"""Training a prepared recipe: from rows to a model with the best state on validation."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.progress import Reporter
from pefttools.recipe import Recipe
from pefttools.tasks.task import Evaluation, Example, Task
from pefttools.training.checkpoints import Checkpoint
from pefttools.training.optimizer import TRANSFORMERS_NAMES
from pefttools.training.precision import default_device
from pefttools.training.prepare import Prepared, build_model
from pefttools.training.processes import check_alike, is_main_process, world_size
from pefttools.training.resume import made_from
from pefttools.tuned import TunedModel


@dataclass
class Fitted:
    """A trained model.

    Attributes:
        model: with the best state on validation.
        validation: its evaluation there.
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


def fit(prepared: Prepared, reporter: Reporter, work: Path, *, learning_rate: float | None = None,
        checkpoint: Checkpoint | None = None) -> Fitted:  # fmt: skip
    """Train a model.

    Args:
        prepared: what and on what.
        reporter: told of progress.
        work: folder for checkpoints and trackers' files.
        learning_rate: instead of the recipe's and the method's.
        checkpoint: go on from it.

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
    processes = world_size()
    reporter.event(f"training on {model.device}, {processes} process{'' if processes == 1 else 'es'}")
    train, validation = prepared.examples.train, prepared.examples.validation
    if not prepared.method.capabilities.trains:
        return _as_it_is(model, task, validation, settings.eval_batch_size, reporter)
    with reporter.step(f"training {prepared.method.name}", "steps") as advance:
        arguments = _arguments(recipe, len(train), rate, work)
        trainer = TuningTrainer(model, arguments, settings, rate, train, validation, advance, made_from(prepared))
        if checkpoint is not None:
            reporter.event(f"going on from {checkpoint.folder}")
        evaluating = _Stopwatch(trainer)
        start = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
        seconds = time.perf_counter() - start
    if settings.keep_best:
        trainer.restore_best()
    check_alike(model.trainable_state())
    evaluation = Evaluation({}, [])
    if is_main_process():
        with reporter.step("evaluating on validation", "rows") as advance:
            evaluation = task.evaluate(model, validation, batch_size=settings.eval_batch_size, progress=advance)
    state = trainer.state
    passes = state.epoch or 0.0
    return Fitted(
        model=model,
        validation=evaluation,
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
    return Fitted(model, evaluation, [], 0, 0, 0.0, 0.0, 0, 0, 0.0)


def _arguments(recipe: Recipe, examples: int, learning_rate: float, work: Path) -> Any:
    from transformers import TrainingArguments

    settings = recipe.training
    steps_per_epoch = math.ceil(examples / settings.batch_size)
    total = settings.max_steps or math.ceil(steps_per_epoch * settings.epochs)
    every = max(1, total // settings.evaluations) if settings.evaluations else min(steps_per_epoch, total)
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=settings.batch_size // settings.parts // world_size(),
        gradient_accumulation_steps=settings.parts,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * total),
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_gradient_norm,
        optim=TRANSFORMERS_NAMES[settings.optimizer],
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
