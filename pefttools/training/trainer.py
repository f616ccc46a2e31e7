"""transformers' Trainer with the task's loss and evaluation, batches of similar length, and small checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from pefttools.compute.finite import FiniteLosses
from pefttools.compute.processes import world_size
from pefttools.progress import Advance
from pefttools.tasks.task import Example
from pefttools.tasks.types import ROWS, Batch
from pefttools.training.averaging import AveragedWeights
from pefttools.training.checkpoints import (
    AVERAGE,
    BEST,
    OF_METHOD,
    OF_OBJECTIVE,
    STATE,
    begin,
    mark_complete,
    put_state,
    read_state,
    write_state,
)
from pefttools.training.gradients import check_gradients, without_gradient
from pefttools.training.head import fit_head
from pefttools.training.optimizer import decay_to_their_values, parameter_groups
from pefttools.training.prepare import Prepared
from pefttools.training.rates import Rates
from pefttools.training.resume import made_from
from pefttools.training.sampler import LengthWindowSampler, company
from pefttools.tuned import TunedModel


class ExampleDataset(torch.utils.data.Dataset[tuple[int, Example]]):
    """Encoded examples for a data loader, each with its number."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, Example]:
        return index, self.examples[index]


class TuningTrainer(Trainer):  # type: ignore[misc]
    """Trains a `TunedModel`.

    Args:
        model: what is trained.
        arguments: transformers' arguments.
        prepared: the recipe and its rows.
        rates: learning rates.
        advance: called after every step.

    Attributes:
        best_step: step of the best evaluation so far, 0 before the first.
        stopped_early: whether `patience` evaluations in a row were no better.
        history: every log entry and evaluation, in order.
    """

    def __init__(
        self,
        model: TunedModel,
        arguments: TrainingArguments,
        prepared: Prepared,
        rates: Rates,
        advance: Advance,
    ) -> None:
        self.tuned = model
        # The loss is multiplied by the number of processes, for sums that are divided by the labels of all of them.
        model.passes = arguments.gradient_accumulation_steps * world_size()
        self.made_from = made_from(prepared)
        self.config = prepared.recipe.training
        self.selection = prepared.selection
        self.rates = rates
        self.validation = prepared.examples.validation
        self.best_step = 0
        self.best_score = -math.inf
        self.best_state: dict[str, torch.Tensor] = {}
        self.evaluations_without_progress = 0
        self.gradients_checked = False
        self.averaged = None if self.config.averaging is None else AveragedWeights(model, self.config.averaging)
        halved = model.spec.variant.float16_on_cards and model.device.type == "cuda"
        self.losses = FiniteLosses(float16=bool(arguments.fp16) or halved)
        self.optimizer: torch.optim.Optimizer | None = None
        self.control: Any
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=ExampleDataset(prepared.examples.train),
            eval_dataset=ExampleDataset(self.validation),
            data_collator=partial(_batch, model),
            compute_loss_func=_given_loss,
            callbacks=[_Advance(advance, self)],
        )
        self.remove_callback(PrinterCallback)

    @property
    def history(self) -> list[dict[str, float]]:
        """Log entries and evaluations, in order."""
        return list(self.state.log_history)

    @property
    def stopped_early(self) -> bool:
        """Whether `patience` evaluations in a row were no better."""
        patience = self.selection.patience
        return patience is not None and self.evaluations_without_progress >= patience

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, with a separate learning rate for the task head."""
        if self.optimizer is None:
            settings = self.config
            groups = parameter_groups(self.tuned, self.rates, settings.weight_decay, settings.layer_decay)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.tuned)
            self.optimizer = kind(groups, **options)
            decay_to_their_values(self.optimizer, self.tuned, settings.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthWindowSampler:
        lengths = self.tuned.spec.task.sizes(self.train_dataset.examples)
        # A step's examples are fixed first, then distributed over processes and parts.
        paired = any(one.pairs_rows for one in self.tuned.objectives)
        together, apart = company(self.tuned.spec.task, self.train_dataset.examples, by_label=paired)
        return LengthWindowSampler(
            lengths, self.config.batch_size, self.args.data_seed or 0, together=together, apart=apart
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The batches of a step, whose rows are counted where objectives take means over rows."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if any(one.ranks_answers or one.learns_states() for one in self.tuned.objectives):
            rows = torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)
            self.tuned.step_rows = int(self.accelerator.gather(rows).sum())
        return batches, items

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss, computed inside the model's forward, so that the processes that share the work see it."""
        return super().compute_loss(model, {**inputs, "targets": inputs["labels"]}, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass.

        Raises:
            DivergedError: the loss is not finite.
            TrainingError: in the first pass a trained parameter got no gradient.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.losses.see(self.state.global_step + 1, loss)
        if not self.gradients_checked:
            self.gradients_checked = True
            check_gradients(self.tuned, without_gradient(self.tuned))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics on the validation examples; remembers the best state. Process 0 computes, all get the result."""
        self.losses.settle()
        with nullcontext() if self.averaged is None else self.averaged.in_place():
            fit_head(self.tuned, self.train_dataset.examples, self.config.eval_batch_size)
            return self._measured()

    def _measured(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self.args.process_index == 0:
            evaluation = self.tuned.spec.task.evaluate(
                self.tuned, self.validation, batch_size=self.config.eval_batch_size, calibrate=True
            )
            metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
        if self.args.world_size > 1:
            shared = [metrics]
            torch.distributed.broadcast_object_list(shared, src=0)
            metrics = shared[0]
        score = self.selection.score({name.removeprefix("eval_"): value for name, value in metrics.items()})
        progress = score > self.best_score + (self.selection.threshold if self.best_state else 0.0)
        self.evaluations_without_progress = 0 if progress else self.evaluations_without_progress + 1
        # Among equal scores the later one has seen more.
        if score >= self.best_score:
            self.best_score, self.best_step = score, self.state.global_step
            self.best_state = {name: p.cpu().clone() for name, p in self.tuned.trainable_state().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Write an entry; beside a loss what each objective's term was, on average over the steps."""
        if "loss" in logs:
            terms, self.tuned.terms = self.tuned.terms, {}
            passes = self.tuned.passes
            logs |= {name: float(total) / count * passes for name, (total, count) in terms.items()}
        super().log(logs, *args, **kwargs)

    def settle(self, *, best: bool) -> None:
        """Give the model the weights that are to be kept.

        Args:
            best: those of the best evaluation, where there was one; else those of the end.
        """
        if self.averaged is not None:
            self.averaged.put()
        if best and self.best_state:
            put_state(self.tuned, self.best_state, "the best state")  # with the head as it was fitted for it
        else:
            fit_head(self.tuned, self.train_dataset.examples, self.config.eval_batch_size)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        write_state(folder / STATE, self.tuned.trainable_state())
        if self.averaged is not None:
            write_state(folder / AVERAGE, self.averaged.state)
        for number, objective in enumerate(self.tuned.objectives):
            if kept := objective.state():
                write_state(folder / OF_OBJECTIVE.format(number), kept)
        if own := self.tuned.spec.method.training_state(self.tuned.transformer):
            write_state(folder / OF_METHOD, own)
        notes = {
            "step": str(self.best_step),
            "score": repr(self.best_score),
            "without_progress": str(self.evaluations_without_progress),
        }
        write_state(folder / BEST, self.best_state, **notes)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            begin(folder)
        super()._save_checkpoint(*args, **kwargs)
        if self.args.world_size > 1:
            torch.distributed.barrier()  # every process writes the state of its random generators
        if self.args.should_save:
            mark_complete(folder, self.made_from)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        put_state(self.tuned, read_state(folder / STATE)[0], str(folder))
        if (folder / OF_METHOD).is_file():
            self.tuned.spec.method.restore_training_state(self.tuned.transformer, read_state(folder / OF_METHOD)[0])
        if self.averaged is not None:
            self.averaged.state = read_state(folder / AVERAGE)[0]
        self.tuned.begin_objectives()
        for number, objective in enumerate(self.tuned.objectives):
            if (folder / OF_OBJECTIVE.format(number)).is_file():
                kept = read_state(folder / OF_OBJECTIVE.format(number))[0]
                objective.restore_state({name: tensor.to(self.tuned.device) for name, tensor in kept.items()})
        self.best_state, notes = read_state(folder / BEST)
        self.best_step, self.best_score = int(notes["step"]), float(notes["score"])
        self.evaluations_without_progress = int(notes.get("without_progress", 0))


class _Advance(TrainerCallback):  # type: ignore[misc]
    """Tells the progress bar, and the method, about every step; ends training that has made no progress."""

    def __init__(self, advance: Advance, trainer: TuningTrainer) -> None:
        self.advance = advance
        self.trainer = trainer
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self.trainer.tuned
        model.spec.method.begin(model.transformer, model.spec.config, state.max_steps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self.trainer.tuned
        model.spec.method.after_step(model.transformer, state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.averaged is not None:
            self.trainer.averaged.update(state.global_step)
        self.advance(state.global_step, state.max_steps, self.note)
        # Also if this was so when the checkpoint was written that training continues from.
        if self.trainer.stopped_early:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.3f}"

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        name = self.trainer.selection.metric
        self.note = f"validation {name} {metrics[f'eval_{name}']:.4f}"
        if self.trainer.stopped_early:
            control.should_training_stop = True


def _batch(model: TunedModel, numbered: Sequence[tuple[int, Example]]) -> Batch:
    batch = model.spec.task.training_batch(model, [example for _, example in numbered])
    if any(one.teachers() or one.reads_start for one in model.objectives):
        batch[ROWS] = torch.tensor([number for number, _ in numbered])
    return batch


def _given_loss(outputs: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return outputs
