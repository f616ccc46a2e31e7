"""The forward passes of one training step, as objectives ask for them, and the sum of their terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from pefttools.objectives.features import inputs_of, last_linear
from pefttools.objectives.gradients import Collected
from pefttools.objectives.inputs import Change, Texts, changed_input
from pefttools.objectives.layers import layer_modules, mean_of_each, outputs_of
from pefttools.objectives.perturbation import Perturbation
from pefttools.tasks.task import Task
from pefttools.tasks.types import IGNORE, Batch

if TYPE_CHECKING:
    from pefttools.objectives.objective import Objective

#: what losses in float16 are multiplied by while gradients are taken
_FLOAT16_SCALE = 1024.0


class Trainable(Protocol):
    """A model that is trained; `pefttools.tuned.TunedModel` is one."""

    head: nn.Module | None
    autocast: torch.dtype | None
    #: parts that a step's batch is split into
    passes: int
    #: rows of the whole step; None: those of its batch
    step_rows: int | None

    @property
    def transformer(self) -> nn.Module:
        """The wrapped transformers model."""

    @property
    def task(self) -> Task[Any]:
        """What it is trained for."""

    def task_loss(
        self, batch: Batch, targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The task's own loss of a batch without its labels."""

    def trained(self) -> dict[str, torch.Tensor]:
        """The parameters that are trained, by name."""

    def of_head(self) -> set[str]:
        """Names of those that are the head's."""


@dataclass(frozen=True)
class Outcome:
    """What a forward pass gave.

    Attributes:
        loss: the task's, or that of the objective that shapes it: a scalar.
        logits: as `Task.logits`; None where no objective of the training reads them.
        features: what the head's linear layer reads, ``[rows, hidden]``; None where no objective reads them.
        states: by layer, from 1, what objectives read of it: the mean over a row's tokens, ``[rows, hidden]``.
        likelihoods: logarithms of the probabilities of the rows' answers, ``[rows]``; None where no objective ranks
            answers.
        tokens: number of tokens of each of those answers.
    """

    loss: torch.Tensor
    logits: torch.Tensor | None
    features: torch.Tensor | None = None
    states: Mapping[int, torch.Tensor] = field(default_factory=dict)
    likelihoods: torch.Tensor | None = None
    tokens: torch.Tensor | None = None

    def answers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`likelihoods` and `tokens`, for objectives that rank answers."""
        assert self.likelihoods is not None and self.tokens is not None, "no objective of this training ranks answers"
        return self.likelihoods, self.tokens


class Step:
    """One batch of a training step, or one of the parts that a batch is split into.

    Args:
        model: in training mode.
        batch: inputs without labels.
        labels: see `Task.loss`.
        num_items: see `Task.loss`.
        terms: the objectives of the training.
        rows: see below.

    Attributes:
        rows: number of each row among the training rows; None in a step that is only measured.
        texts: which numbers of the input belong to which text.
        trained: parameters, by name.
        scale: what a loss is to be multiplied by before gradients are taken, so that those in float16 do not vanish.
    """

    def __init__(
        self,
        model: Trainable,
        batch: Batch,
        labels: torch.Tensor,
        num_items: torch.Tensor | int | None,
        terms: Sequence[Objective[Any]],
        rows: torch.Tensor | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self.rows = rows
        self.labels = labels
        self.num_items = num_items
        self.texts = Texts(batch)
        self.trained = model.trained()
        self.scale = _FLOAT16_SCALE if model.autocast == torch.float16 else 1.0
        self._terms = terms
        self._changes = [one for one in terms if one.changes_input]
        self._shape = next((one for one in terms if one.shapes_loss), None)
        self._reads_features = any(one.reads_features for one in terms)
        self._layers = sorted({number for one in terms for number in one.read_layers()})
        self._reads_logits = self._shape is not None or any(one.compares for one in terms)
        self._ranks_answers = any(one.ranks_answers for one in terms)
        self._reads_slope = any(one.reads_slope for one in terms)
        reads = self._reads_features or self._ranks_answers or bool(self._layers)
        self._keeps_graph = reads or any(one.keeps_graph for one in terms) or not any(one.perturbs for one in terms)
        self._plain: Outcome | None = None
        self._slope: torch.Tensor | None = None
        self._random: _Random | None = None

    @property
    def task(self) -> Task[Any]:
        """What is learned."""
        return self.model.task

    def collected(self) -> Collected:
        """Takes the gradients of passes as they come."""
        return Collected(list(self.trained.values()), self.scale)

    def plain(self) -> Outcome:
        """The pass over the batch without any perturbation. It is run once, whoever asks for it."""
        if self._plain is None:
            self._plain = self.run() if self._keeps_graph else self._at_once()
        return self._plain

    def answer(self) -> torch.Tensor:
        """The logits of the plain pass, as a constant; it is run without gradients if nobody has asked for it yet."""
        if self._plain is None:
            with torch.no_grad():
                logits = self.run().logits
        else:
            logits = self._plain.logits
        assert logits is not None, "no objective of this training reads logits"
        return logits.detach()

    def rejected(self) -> Outcome:
        """A pass over the worse answers of the batch, of which the plain pass reads the better ones."""
        batch, labels = self.task.rejected(self.batch)
        return Step(self.model, batch, labels, self.num_items, self._terms).run()

    def row_mean(self, values: torch.Tensor) -> torch.Tensor:
        """The part of this batch in the mean over all rows of the step.

        Args:
            values: one per row of the batch.
        """
        return values.sum() / (self.model.step_rows or len(values))

    def over(self, batch: Batch) -> Step:
        """A step over other rows, without labels; of a task with one label per row.

        Args:
            batch: inputs.
        """
        rows = len(next(iter(batch.values())))
        labels = torch.full((rows,), IGNORE, device=self.labels.device)
        return Step(self.model, batch, labels, rows * self.model.passes, self._terms)

    def slope(self) -> torch.Tensor:
        """The gradient of the plain loss with regard to what the model reads, times a number above 0, in float32.

        Its shape is that of the input: ``[rows, tokens, hidden]`` of a text.
        """
        self.plain()
        if self._slope is None:  # the plain pass has kept its graph, in which its input is no leaf
            delta = Perturbation(torch.zeros_like)
            loss = self.run(delta).loss
            (self._slope,) = torch.autograd.grad(loss * self.scale, [delta.tensor])
        return self._slope

    def run(self, change: Change | None = None, *, same_dropout: bool = True) -> Outcome:
        """One pass.

        Args:
            change: of what the model reads; None: it reads what it reads in the plain pass.
            same_dropout: with the dropout of the step's first pass; else with another.
        """
        if self._random is not None and same_dropout:
            with self._random.again():
                return self._run(change)
        if self._random is None:  # what is drawn for the whole step, such as a mask of weights, is drawn by now
            self._random = _Random(self.labels.device)
        return self._run(change)

    def divergence(self, logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """See `Task.divergence`; a mean as the loss is."""
        return self.task.divergence(logits, others, self.labels, self.num_items)

    def _at_once(self) -> Outcome:
        """The plain pass, with the gradients of its loss taken and its activations freed."""
        collected = self.collected()
        if self._reads_slope:
            delta = Perturbation(torch.zeros_like)
            outcome = self.run(delta)
            (self._slope,) = collected.add(outcome.loss, delta.tensor)
        else:
            outcome = self.run()
            collected.add(outcome.loss)
        return Outcome(collected.total(), None if outcome.logits is None else outcome.logits.detach())

    def _run(self, change: Change | None) -> Outcome:
        if change is None and not self._changes:
            return self._outcome(self.batch)

        def changed(read: torch.Tensor) -> torch.Tensor:
            for one in self._changes:
                read = one.change(read, self)
            return read if change is None else change(read)

        with changed_input(self.model.transformer, self.batch, changed) as batch:
            return self._outcome(batch)

    def _outcome(self, batch: Batch) -> Outcome:
        if not self._layers:
            return self._with_features(batch)
        who = " and ".join(repr(one.name) for one in self._terms if one.read_layers())
        modules = layer_modules(self.model.transformer, who)
        with outputs_of(modules, self._layers) as given:
            outcome = self._with_features(batch)
        return replace(outcome, states=mean_of_each(given, self.texts, len(self.labels), who))

    def _with_features(self, batch: Batch) -> Outcome:
        if not self._reads_features:
            return self._answered(batch)
        model, of_head = self.model, self.model.of_head()
        layer = last_linear(model.head or model.transformer, [self.trained[name] for name in of_head])
        with inputs_of(layer) as read:
            return replace(self._answered(batch), features=read[-1])

    def _answered(self, batch: Batch) -> Outcome:
        task, model, batch = self.task, self.model, dict(batch)
        if self._ranks_answers:
            likelihoods = task.log_likelihoods(model.transformer, model.head, batch, self.labels)
            loss = -likelihoods.sum() / task.items(self.labels, self.num_items)
            return Outcome(loss, None, likelihoods=likelihoods, tokens=(self.labels != IGNORE).sum(1))
        if not self._reads_logits:
            return Outcome(model.task_loss(batch, self.labels, self.num_items), None)
        logits = task.training_logits(model.transformer, model.head, batch)
        if self._shape is not None:
            return Outcome(self._shape.loss(logits, self), logits)
        return Outcome(task.loss(logits, self.labels, self.num_items), logits)


class _Random:
    """The state of the random numbers that the first pass of a step begins with."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._card = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers again, and go on behind as if nothing had been drawn."""
        with torch.random.fork_rng(devices=[] if self._card is None else [self._device]):
            torch.set_rng_state(self._cpu)
            if self._card is not None:
                torch.cuda.set_rng_state(self._card, self._device)
            yield


def total_loss(step: Step, terms: Sequence[Objective[Any]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The task's loss, unless an objective replaces it, and the terms of all objectives.

    Returns:
        The sum; and by objective its term, apart from any graph.
    """
    changing = next((one for one in terms if one.changes_weights), None)
    if changing is None:
        return _sum_of(step, terms, plain=not any(one.replaces_loss for one in terms))
    collected, names = step.collected(), list(step.trained)
    # Backward passes may run layers again, so the weights are put back only when they are done.
    with changing.weights(step) as chain:
        passes = [one for one in terms if not one.of_weights]
        loss, found = _sum_of(step, passes, plain=not any(one.replaces_loss for one in terms))
        collected.add(loss)
        collected.change(lambda number, gradient: chain(names[number], gradient))
    rest, more = _sum_of(step, [one for one in terms if one.of_weights], plain=False)
    return collected.total() + rest, {**found, **more}


def _sum_of(
    step: Step, terms: Sequence[Objective[Any]], *, plain: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum of some terms and, with `plain`, of the loss of the plain pass; and the terms."""
    # The plain pass first: whoever reads its logits finds them there.
    added = [step.plain().loss] if plain else []
    found = {one.name: term for one in terms if (term := one.term(step)) is not None}
    added += found.values()
    zero = torch.zeros((), device=step.labels.device)
    total = torch.stack([zero, *(term.float() for term in added)]).sum()
    return total, {name: term.detach() for name, term in found.items()}
