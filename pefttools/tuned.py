"""A base model wrapped by a method for a task: what is trained, saved, loaded and used for predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn

from pefttools.bases import Base, BaseVariant
from pefttools.compute.moving import all_moved
from pefttools.errors import ConfigError
from pefttools.methods import Capabilities, Method, MethodConfig, Target
from pefttools.objectives import Objective
from pefttools.objectives.step import Step, total_loss
from pefttools.sites import transformers_models
from pefttools.tasks import Task
from pefttools.tasks.language.generation import end_tokens
from pefttools.tasks.passages import Placement
from pefttools.tasks.types import ROWS, Batch
from pefttools.tasks.whole_batch import logits_in_parts


@dataclass(frozen=True)
class Spec:
    """What a tuned model is made of; everything that an artifact's manifest needs to build it again."""

    base: Base
    variant: BaseVariant
    method: Method[Any]
    config: MethodConfig
    task: Task[Any]
    labels: tuple[str, ...]
    head_kind: str
    target: Target
    #: role -> column of the training data, if an artifact remembers them
    columns: Mapping[str, str] = field(default_factory=dict)
    #: where its rows have passages that were looked up; None if they have none
    knowledge: Placement | None = None


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: all, those that are trained, and those of the head."""

    total: int
    trainable: int
    head: int


class TunedModel(nn.Module):
    """A wrapped model with the processor that encodes its inputs.

    Args:
        transformer: the wrapped transformers model.
        head: the task head, if it is pefttools' own.
        spec: what it is made of.
        processor: transformers' tokenizer, image processor or feature extractor, as the task loads it.
        autocast: dtype of mixed precision; None to compute in the dtype of the weights.
    """

    def __init__(
        self,
        transformer: nn.Module,
        head: nn.Module | None,
        spec: Spec,
        processor: Any,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.head = head
        self.spec = spec
        self.processor = processor
        self.autocast = autocast
        #: parts that a batch is split into in training, with one part's activations in memory at a time, if the task's
        #: loss is one of the whole batch
        self.parts = 1
        #: forward passes whose gradients are accumulated for a step; the method's penalty is divided among them
        self.passes = 1
        #: rows of the training step that is being computed, in all its passes and processes; None: those of its batch
        self.step_rows: int | None = None
        #: what is minimised beside the task's loss, or instead of it
        self.objectives: tuple[Objective[Any], ...] = ()
        self._objectives_begun = False
        #: of each objective, by name, the sum of its terms since somebody has emptied this, and their number
        self.terms: dict[str, tuple[torch.Tensor, int]] = {}

    @property
    def task(self) -> Task[Any]:
        """What it is trained for."""
        return self.spec.task

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a model that reads texts, even if only as a part of its inputs."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def quantized(self) -> bool:
        """Whether the base's weights are stored in a few bits."""
        return self.spec.variant.quantized

    @property
    def capabilities(self) -> Capabilities:
        """What its method can do."""
        return self.spec.method.capabilities

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self.spec.labels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self,
        targets: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **batch: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of a batch, whose labels are ignored; with targets, the training loss and the method's penalty.

        Args:
            targets: labels, as the task collates them.
            num_items_in_batch: what the loss is divided by, see `Task.loss`.
            batch: the model's inputs.
        """
        batch.pop("labels", None)
        rows = batch.pop(ROWS, None)
        with self.precision():
            if targets is None:
                return self.spec.task.logits(self.transformer, self.head, batch)
            if self.training and self.objectives:
                self.begin_objectives()
                step = Step(self, batch, targets, num_items_in_batch, self.objectives, rows)
                loss, terms = total_loss(step, self.objectives)
                for name, term in terms.items():
                    total, count = self.terms.get(name, (torch.zeros_like(term), 0))
                    self.terms[name] = total + term, count + 1
            else:
                loss = self.task_loss(batch, targets, num_items_in_batch)
        penalty = self.spec.method.penalty(self.transformer, self.spec.config) if self.training else None
        return loss if penalty is None else loss + penalty / self.passes

    def task_loss(
        self, batch: Batch, targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The task's own loss of a batch without its labels."""
        task = self.spec.task
        if self.parts > 1 and task.loss_over_batch:
            logits = logits_in_parts(task, self.transformer, self.head, batch, self.parts)
            return task.loss(logits, targets, num_items_in_batch)
        return task.training_loss(self.transformer, self.head, batch, targets, num_items_in_batch)

    def begin_objectives(self) -> None:
        """Show the objectives the model as its training begins; does nothing from the second call on."""
        if not self._objectives_begun:
            self._objectives_begun = True
            for one in self.objectives:
                one.begin(self, self.trained())

    def run(self, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Logits of encoded examples, in eval mode and without gradients."""
        return self.run_batch(self.spec.task.collate(examples, self.processor))

    def run_batch(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits of a batch, in eval mode and without gradients."""
        with self.inference_mode():
            return cast("torch.Tensor", self(**all_moved(batch, self.device)))

    def generate(self, inputs: dict[str, torch.Tensor], *, ends: Collection[int] = (), **options: Any) -> torch.Tensor:
        """Greedy continuation of left-padded prompts, or what a decoder writes: the new tokens only, ``[rows, new]``.

        Args:
            inputs: ``input_ids`` and ``attention_mask``, ``[rows, tokens]``; or what an encoder reads, padded on the
                right.
            ends: tokens that end a row, besides those in the base's generation settings.
            options: options of transformers' ``generate``.

        Raises:
            ConfigError: prompts of different lengths, which the method can't take in one batch.
        """
        from transformers import GenerationMixin

        encoder_decoder = self.spec.task.encoder_decoder
        begun = options.get("decoder_input_ids")
        if begun is not None:
            options["decoder_input_ids"] = begun.to(self.device)
        if (
            not encoder_decoder
            and not self.spec.method.capabilities.left_padding
            and not inputs["attention_mask"].all()
        ):
            raise ConfigError(
                f"the method {self.spec.method.name!r} can't generate for prompts of different lengths in one batch",
                hint="Give prompts of one length at a time.",
            )
        with self.inference_mode(), self.precision():
            inputs = all_moved(inputs, self.device)
            stop = sorted({*ends, *end_tokens(self.transformer)}) or None
            given = {"do_sample": False, "pad_token_id": self.tokenizer.pad_token_id, "eos_token_id": stop, **options}
            if "input_ids" in inputs:
                tokens = self.transformer.generate(**inputs, **given)  # type: ignore[operator]
            else:  # bypasses Whisper's own, which splits long audio and chooses its own first tokens
                tokens = GenerationMixin.generate(transformers_models(self.transformer)[0], **inputs, **given)
        # What a decoder writes follows the tokens that it begins with.
        before = begun.shape[1] if begun is not None else 1 if encoder_decoder else inputs["input_ids"].shape[1]
        return cast("torch.Tensor", tokens[:, before:])

    def calibrate(self, calibration: dict[str, Any] | None) -> None:
        """Use what the task chose on validation; see `Task.calibrate`."""
        self.spec = replace(self.spec, task=self.spec.task.calibrated(calibration))

    def count(self) -> ParameterCount:
        """Parameters of the whole model, by use. Quantized weights count as the weights that they represent.

        For a method that trains nothing, none are trainable, even if a head is saved.
        """
        head = 0 if self.head is None else sum(p.numel() for p in self.head.parameters())
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        for name, parameter in self.transformer.named_parameters():
            inside = any(f".{module}." in f".{name}" for module in self.spec.target.head_modules)
            if parameter.requires_grad and inside:
                head += parameter.numel()
        if self.spec.method.capabilities.trains == "nothing":
            trainable = head = 0
        return ParameterCount(sum(_size(p) for p in self.parameters()), trainable, head)

    def trained(self) -> dict[str, torch.Tensor]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def of_head(self) -> set[str]:
        """Names of those that are the head's: ours, or the one of transformers' class."""
        inside = [f".{module}." for module in self.spec.target.head_modules]
        return {
            name
            for name in self.trained()
            if name.startswith("head.") or any(module in f".{name}" for module in inside)
        }

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """The parameters that are trained, by name, apart from any graph."""
        return {name: p.detach() for name, p in self.trained().items()}

    @contextlib.contextmanager
    def inference_mode(self) -> Iterator[None]:
        """In eval mode and without gradients."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision, if the model uses it."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast)


def _size(parameter: torch.Tensor) -> int:
    """Number of weights, even if several are packed in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()
