"""Training a prepared recipe: from rows to a model with the best state on validation."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.compute.deterministic import deterministic
from pefttools.compute.optimizers import TRANSFORMERS_NAMES
from pefttools.compute.processes import check_alike, is_main_process, unused_cards, world_size
from pefttools.progress import Reporter
from pefttools.recipe import Recipe
from pefttools.tasks.task import Evaluation
from pefttools.training.checkpoints import Checkpoint
from pefttools.training.learning import knows_a_bar, measured_before, why_not_learned
from pefttools.training.prepare import Prepared, build_model
from pefttools.training.rates import Rates
from pefttools.training.reference import refer, reference_of_base
from pefttools.training.shown import passes, remember, report_unlabelled, teach
from pefttools.training.start import start_from
from pefttools.tuned import TunedModel

if TYPE_CHECKING:
    from pefttools.training.trainer import TuningTrainer


@dataclass
class Fitted:
    """A trained model.

    Attributes:
        model: the model with the best state on validation.
        validation: its evaluation there.
        history: loss and metrics over the steps.
        steps: optimizer steps.
        best_step: step of the state that was kept.
        train_seconds: wall time of the training steps, evaluations left out.
        evaluation_seconds: wall time of the evaluations in between.
        samples: training examples seen.
        tokens: training tokens seen, without padding.
        learning_rate: rate of what the method trains.
        head_learning_rate: rate of the task head; None if no head was trained.
        cpu_seconds: CPU time of the training steps, over all threads of this process.
        busy_share: share of the wall time of the training steps in which the main thread ran; None on a GPU, where it
            means nothing.
        stopped_early: whether patience ended it.
        did_not_learn: why the model is no better than an untrained one; None if it is better.
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
    head_learning_rate: float | None = None
    cpu_seconds: float = 0.0
    busy_share: float | None = None
    stopped_early: bool = False
    did_not_learn: str | None = None

    def release(self) -> None:
        """Release the model and its memory."""
        del self.model
        gc.collect()


def fit(
    prepared: Prepared,
    reporter: Reporter,
    work: Path,
    *,
    rates: Rates | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Train a model.

    Args:
        prepared: what is trained, and on what.
        reporter: told about progress.
        work: folder for checkpoints and trackers' files.
        rates: learning rates, instead of the recipe's and the method's.
        checkpoint: the checkpoint to continue from.

    Raises:
        DivergedError: the loss was not finite.
    """
    from transformers import set_seed

    recipe, task = prepared.recipe, prepared.task
    rates = rates or prepared.rates
    of_base = reference_of_base(prepared, reporter)
    set_seed(recipe.seed)
    model = build_model(prepared)
    _announce(prepared, model, rates, reporter)
    if prepared.method.capabilities.trains == "nothing":
        return _as_it_is(prepared, model, reporter)
    if checkpoint is None and prepared.parent is None:
        prepared.method.prepare(model.transformer, prepared.config, passes(prepared, model))
    teach(prepared, model, reporter)
    before = _ready(prepared, model, reporter)
    refer(prepared, model, of_base, reporter)
    trainer, spent = _run(prepared, model, rates, reporter, work, checkpoint)
    evaluation, why = Evaluation({}), None
    if is_main_process():
        evaluation = _evaluated(prepared, model, reporter)
        why = why_not_learned(task, prepared.selection, evaluation, prepared.labels, before)
        if why is not None:
            reporter.event(f"DID NOT LEARN: {why}. Try a learning rate other than {rates.method:g}.")
        report_unlabelled(prepared, model, reporter)
    state, train = trainer.state, prepared.examples.train
    epochs = state.epoch or 0.0
    return Fitted(
        model=model,
        validation=evaluation,
        history=trainer.history,
        steps=state.global_step,
        best_step=trainer.best_step if recipe.training.keep_best else state.global_step,
        train_seconds=spent.seconds,
        evaluation_seconds=spent.evaluation,
        samples=round(epochs * len(train)),
        tokens=round(epochs * task.tokens(train)),
        learning_rate=rates.method,
        head_learning_rate=rates.head if model.count().head else None,
        cpu_seconds=spent.cpu,
        busy_share=spent.own / spent.seconds if model.device.type == "cpu" and spent.seconds > 0 else None,
        stopped_early=trainer.stopped_early,
        did_not_learn=why,
    )


def _announce(prepared: Prepared, model: TunedModel, rates: Rates, reporter: Reporter) -> None:
    """Report what is trained, and what was noticed about it."""
    count = model.count()
    reporter.event(
        f"{prepared.method.name} on {prepared.base.id} ({prepared.recipe.variant}): {count.trainable:,} of "
        f"{count.total:,} parameters trained, {_said(rates, bool(count.head))}"
    )
    if model.objectives:
        reporter.event(f"objective: {', '.join(one.name for one in model.objectives)}")
    for note in (*prepared.notes, *prepared.examples.notes):
        reporter.event(note)
    for split, cuts in prepared.examples.cuts.items():
        if cuts.cut:
            reporter.event(cuts.line(split))


def _ready(prepared: Prepared, model: TunedModel, reporter: Reporter) -> dict[str, float] | None:
    """Load the initial weights; gives metrics before training, if nothing else says what a model must beat."""
    task, validation = prepared.task, prepared.examples.validation
    processes = world_size()
    reporter.event(f"training on {model.device}, {processes} process{'' if processes == 1 else 'es'}")
    if (unused := unused_cards(model.device)) is not None:
        reporter.event(unused)
    if (why := task.why_padded(model)) is not None:
        reporter.event(f"task.packing is off: {why}. Shorter rows of a batch are padded.")
    if prepared.parent is not None:
        rows = [validation[index] for index in range(min(4, len(validation)))]
        start_from(model, prepared.parent, task.training_set(rows)[:4])
        reporter.event(prepared.parent.said())
    remember(prepared, model)
    if is_main_process() and not knows_a_bar(task, validation, prepared.labels):
        return measured_before(model, validation, prepared.recipe.training.eval_batch_size)
    return None


def _run(
    prepared: Prepared, model: TunedModel, rates: Rates, reporter: Reporter, work: Path, checkpoint: Checkpoint | None
) -> tuple[TuningTrainer, _Spent]:
    """The training itself; the model ends up with the weights to keep."""
    from pefttools.training.trainer import TuningTrainer

    settings = prepared.recipe.training
    with reporter.step(f"training {prepared.method.name}", "steps") as advance:
        arguments = _arguments(
            prepared.recipe, prepared.passes, model, len(prepared.examples.train), rates.method, work
        )
        trainer = TuningTrainer(model, arguments, prepared, rates, advance)
        if checkpoint is not None:
            reporter.event(f"continuing from {checkpoint.folder}")
        evaluating = _Stopwatch(trainer)
        start = _clocks()
        with deterministic(settings.deterministic):
            trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
        trainer.losses.settle()
        clocks = [now - then - spent for now, then, spent in zip(_clocks(), start, evaluating.spent, strict=True)]
    if trainer.stopped_early:
        reporter.event(
            f"no better {prepared.selection.metric} in {prepared.selection.patience} evaluations: stopped after step "
            f"{trainer.state.global_step}"
        )
    trainer.settle(best=settings.keep_best)
    check_alike(model.trainable_state())
    return trainer, _Spent(clocks[0], clocks[1], clocks[2], evaluating.spent[0])


def _evaluated(prepared: Prepared, model: TunedModel, reporter: Reporter) -> Evaluation:
    """Evaluation on validation, on which the model is calibrated."""
    with reporter.step("evaluating on validation", "rows") as advance:
        evaluation = prepared.task.evaluate(
            model,
            prepared.examples.validation,
            batch_size=prepared.recipe.training.eval_batch_size,
            progress=advance,
            calibrate=True,
        )
    model.calibrate(evaluation.calibration)
    return evaluation


def _as_it_is(prepared: Prepared, model: TunedModel, reporter: Reporter) -> Fitted:
    return Fitted(model, _evaluated(prepared, model, reporter), [], 0, 0, 0.0, 0.0, 0, 0, 0.0)


def _said(rates: Rates, head: bool) -> str:
    if not head or rates.head == rates.method:
        return f"learning rate {rates.method:g}"
    return f"learning rate {rates.method:g}, of the head {rates.head:g}"


def _arguments(recipe: Recipe, passes: int, model: TunedModel, examples: int, learning_rate: float, work: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    settings, on_card = recipe.training, model.device.type != "cpu"
    steps_per_epoch = math.ceil(examples / settings.batch_size)
    total = settings.max_steps or math.ceil(steps_per_epoch * settings.epochs)
    every = max(1, total // settings.evaluations) if settings.evaluations else min(steps_per_epoch, total)
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=settings.batch_size // passes // world_size(),
        gradient_accumulation_steps=passes,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * total),
        # Scales the loss, so that small gradients don't vanish; the forward pass gets its format from the model.
        fp16=model.autocast == torch.float16,
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
        use_cpu=not on_card,
        dataloader_pin_memory=on_card,
        accelerator_config={"non_blocking": on_card},
        ddp_timeout=6 * 3600,
        ddp_find_unused_parameters=False,
        log_level="error",
    )
    # With several GPUs Trainer would run copies of the model on all of them in one process (DataParallel): larger
    # batches than the recipe says, and copies without parameters of their own.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _clocks() -> tuple[float, float, float]:
    """Seconds: wall time, CPU time of the whole process, and CPU time of this thread."""
    return time.perf_counter(), time.process_time(), time.thread_time()


@dataclass(frozen=True)
class _Spent:
    """Seconds of training without evaluations (wall time, CPU time, that of this thread), and those of evaluations."""

    seconds: float
    cpu: float
    own: float
    evaluation: float


class _Stopwatch:
    """Counts the time that a trainer spends in evaluations, by each of the clocks."""

    def __init__(self, trainer: Any) -> None:
        self.spent = [0.0, 0.0, 0.0]
        inner = trainer.evaluate

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = _clocks()
            try:
                return inner(*args, **kwargs)
            finally:
                passed = [now - then for now, then in zip(_clocks(), start, strict=True)]
                self.spent = [before + one for before, one in zip(self.spent, passed, strict=True)]

        trainer.evaluate = timed
