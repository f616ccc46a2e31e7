"""Memory that each combination of method and variant of the base would need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from pefttools.bases import variants as known_variants
from pefttools.bases.model_class import longest_text
from pefttools.bases.quiet import quiet
from pefttools.bases.skeleton import Skeleton, skeleton
from pefttools.bases.unquantized import unquantized_bytes
from pefttools.building import build
from pefttools.compute.config import Precision
from pefttools.compute.optimizers import TRANSFORMERS_NAMES
from pefttools.compute.precision import default_device, resolve_precision
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import Method, MethodConfig
from pefttools.objectives import Objective
from pefttools.planning.counting import Traced
from pefttools.planning.device import Device
from pefttools.planning.trace import Trace
from pefttools.recipe import GivenMethod, GivenObjective, choose_method, choose_objectives, choose_task, method_title
from pefttools.tasks.size_unit import TOKENS
from pefttools.tasks.task import Batch, Task
from pefttools.tuned import TunedModel

Choice = str | Mapping[str, Any]


@dataclass(frozen=True)
class MemoryPlan:
    """One line of a plan; sizes in bytes.

    Attributes:
        method: its name.
        variant: number format of the base's weights.
        device: whose kernels and allocator are assumed.
        trainable_parameters: including those of the task head.
        weights_bytes: all parameters and buffers, including trained ones, at the training peak.
        unquantized_bytes: those weights of the base among them that a quantized variant does not quantize.
        gradients_bytes: at the training peak.
        optimizer_bytes: at the training peak.
        activations_bytes: activations and temporaries at the training peak.
        persistent_bytes: what is held between two steps, until the gradients are dropped.
        peak_bytes: training peak.
        peak_at: module that was running at the peak.
        evaluation_bytes: peak of a forward pass without gradients.
        generation_bytes: peak of reading a prompt of that length into a cache and answering it; 0 if nothing is
            generated.
        beside_bytes: what the device takes besides the tensors: context, workspace, fragmentation.
    """

    method: str
    variant: str
    device: str
    trainable_parameters: int
    weights_bytes: int
    unquantized_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    persistent_bytes: int
    peak_bytes: int
    peak_at: str
    evaluation_bytes: int
    generation_bytes: int
    beside_bytes: int

    @property
    def total_bytes(self) -> int:
        """Total memory that the device must have."""
        return self.tensor_bytes + self.beside_bytes

    @property
    def tensor_bytes(self) -> int:
        """The largest of the peaks."""
        return max(self.peak_bytes, self.evaluation_bytes, self.generation_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Field -> value."""
        return {**asdict(self), "total_bytes": self.total_bytes}


@dataclass(frozen=True)
class Shape:
    """The shape of a training run.

    Attributes:
        batch_size: rows of one optimizer step, over all devices.
        length: tokens of each row.
        accumulation: forward passes of one step.
        eval_batch_size: rows of a forward pass in evaluation.
        precision: as in a recipe.
        gradient_checkpointing: as in a recipe.
        optimizer: as in a recipe.
        devices: number of devices that share a batch.
        sharded: whether parameters, gradients and optimizer state are sharded over them (FSDP); otherwise each has all.
        averaged: a moving average of the trained weights is kept.
    """

    batch_size: int = 32
    length: int = 128
    accumulation: int = 1
    eval_batch_size: int = 64
    precision: Precision = "auto"
    gradient_checkpointing: bool | Literal["selective"] = False
    optimizer: str = "adamw"
    devices: int = 1
    sharded: bool = False
    averaged: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "length", "accumulation", "eval_batch_size", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_size % (self.accumulation * self.devices):
            raise ConfigError(
                f"batch_size={self.batch_size} can't be divided by accumulation={self.accumulation} "
                f"times {self.devices} devices"
            )
        if self.sharded and self.devices == 1:
            raise ConfigError("sharded needs at least 2 devices")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}")
        if self.optimizer not in TRANSFORMERS_NAMES:
            raise ConfigError(f"no optimizer {self.optimizer!r}", hint=f"Known: {', '.join(TRANSFORMERS_NAMES)}.")

    @property
    def rows(self) -> int:
        """Rows of one forward pass on one device."""
        return self.batch_size // (self.accumulation * self.devices)


@dataclass(frozen=True)
class Planned:
    """One combination, for which several shapes can be planned.

    Attributes:
        base: the base.
        task: name of a task, or a mapping with name and options.
        method: name of a method, or a mapping with name and options.
        variant: number format of the base's weights.
        labels: number of labels.
        device: whose kernels and allocator are assumed.
        objective: as in a recipe.
    """

    base: Skeleton
    task: Choice
    method: GivenMethod
    variant: str
    labels: int
    device: Device
    objective: GivenObjective = ()

    def row(self, shape: Shape) -> MemoryPlan:
        """Memory of a training run of this shape."""
        self._check(shape)
        model = self.build(shape)
        trainable, unquantized = model.count().trainable, unquantized_bytes(model)
        trace = Trace(model, self.device, shape.devices, shape.sharded)
        training = trace.training(
            [shape.length] * self._rows(shape), shape.accumulation, shape.optimizer, averaged=shape.averaged
        )
        evaluation = trace.evaluation(shape.eval_batch_size, shape.length)
        generation = None
        if model.spec.task.generates:
            new = model.spec.task.options.max_new_tokens
            # In an encoder-decoder model, what is written takes no room from what is read.
            room = self.longest - (0 if model.spec.task.encoder_decoder else new)
            generation = trace.generation(shape.eval_batch_size, max(1, min(shape.length, room)), new)
        return self._row(trainable, unquantized, training, evaluation, generation)

    def _check(self, shape: Shape) -> None:
        """Refuse rows that the base can't take.

        Raises:
            ConfigError: they are too long.
        """
        task = self.chosen_task()
        if task.sized_by is not None and shape.length > self.longest:
            unit = task.size_unit
            raise ConfigError(
                f"{unit.shown(shape.length):g} {unit.name} are more than the {unit.shown(self.longest):g} that "
                f"{self.base.id} can take"
            )

    @property
    def title(self) -> str:
        """Name of the method."""
        return method_title(self.method)

    def chosen_method(self) -> tuple[Method[Any], MethodConfig]:
        """The method and its options."""
        return choose_method(self.method)

    def chosen_task(self) -> Task[Any]:
        """The task with its options."""
        return choose_task(self.task if isinstance(self.task, str) else dict(self.task)).planned()

    def chosen_objectives(self) -> tuple[Objective[Any], ...]:
        """The objectives with their options."""
        return choose_objectives(self.objective)

    @property
    def longest(self) -> int:
        """Maximum size of a row."""
        task = self.chosen_task()
        if task.size_unit == TOKENS:
            return longest_text(self.base.configuration()) or 1 << 20
        limits = [one for one in (task.input_limit(self.base), task.longest_input) if one is not None]
        return min(limits, default=1 << 20)

    def training_bytes(self, shape: Shape, lengths: Sequence[int] | None = None, like: Batch | None = None) -> int:
        """Training peak alone.

        Args:
            shape: shape of the training run.
            lengths: tokens of each text of one forward pass, if they do not all have the shape's length.
            like: a batch of the forward pass, if the lengths do not fully determine it.
        """
        trace = Trace(self.build(shape), self.device, shape.devices, shape.sharded)
        lengths = lengths or [shape.length] * self._rows(shape)
        return trace.training(lengths, shape.accumulation, shape.optimizer, like, averaged=shape.averaged).peak.total()

    def _rows(self, shape: Shape) -> int:
        """Rows of one forward pass on one device: all of them, if the task's loss is one of the whole batch."""
        return shape.batch_size // shape.devices if self.chosen_task().loss_over_batch else shape.rows

    def outputs_bytes(self, shape: Shape) -> int:
        """What a training loop that holds a pass's outputs keeps between steps, besides `MemoryPlan.persistent_bytes`.

        pefttools does not; a script that leaves its model's outputs in a variable does.
        """
        return Trace(self.build(shape), self.device).outputs(self._rows(shape), shape.length)

    def build(self, shape: Shape) -> TunedModel:
        """The model on the meta device.

        Raises:
            ConfigError: the method needs the weights' values.
        """
        method, given = self.chosen_method()
        task, variant, objectives = self.chosen_task(), known_variants.get(self.variant)(), self.chosen_objectives()
        method.check(given, variant, task)
        for objective in objectives:
            objective.check(method, variant, task)
        config = method.trained(given)  # its initialisation needs values, and takes no memory of its own
        names = [str(number) for number in range(self.labels)] if task.has_labels else []
        try:
            with torch.device("meta"), quiet():
                model = build(
                    self.base, known_variants.get(self.variant).name, method, config, task, names,
                    precision=self.precision(shape), seed=0, gradient_checkpointing=shape.gradient_checkpointing,
                )  # fmt: skip
                model.objectives = objectives
                model.parts = shape.accumulation if task.loss_over_batch else 1
                return model
        except NotImplementedError as error:
            raise ConfigError(
                f"memory can't be planned for the method {method.name!r} with these options: its "
                "initialisation reads the weights' values"
            ) from error
        except PeftToolsError:
            raise
        except Exception as error:
            raise ConfigError(
                f"the method {method.name!r} can't be built on {self.base.id!r}: "
                f"{(str(error) or repr(error)).splitlines()[0]}"
            ) from error

    def precision(self, shape: Shape) -> str:
        """The number format of mixed precision on the device."""
        if shape.precision != "auto" or not self.device.gpu:
            return resolve_precision(shape.precision, default_device())
        return "bfloat16" if self.device.bfloat16 else "float16"

    def _row(
        self, trainable: int, unquantized: int, training: Traced, evaluation: Traced, generation: Traced | None
    ) -> MemoryPlan:
        generated = 0 if generation is None else generation.peak.total()
        largest = max(training.peak.total(), evaluation.peak.total(), generated)
        return MemoryPlan(
            method=self.title,
            variant=self.variant,
            device=self.device.name,
            trainable_parameters=trainable,
            weights_bytes=training.peak["weights"],
            unquantized_bytes=unquantized,
            gradients_bytes=training.peak["gradients"],
            optimizer_bytes=training.peak["optimizer"],
            activations_bytes=training.peak["other"],
            persistent_bytes=training.persistent.total(),
            peak_bytes=training.peak.total(),
            peak_at=training.peak_at,
            evaluation_bytes=evaluation.peak.total(),
            generation_bytes=generated,
            beside_bytes=self.device.overhead(largest),
        )


def combined(
    base: str, task: Choice, methods: Sequence[GivenMethod], variants: Sequence[str], labels: int, device: Device
) -> tuple[Planned, ...]:
    """Each method on each variant of the base.

    Args:
        base: folder (``config.json`` is enough), ``package:`` reference or hub id.
        task: name of a task, or a mapping with name and options.
        methods: names, or mappings with name and options.
        variants: number formats of the base's weights.
        labels: number of labels, if the task has labels.
        device: whose kernels and allocator are assumed.

    Raises:
        BaseModelError: no such base.
    """
    found = skeleton(base)
    return tuple(Planned(found, task, method, variant, labels, device) for variant in variants for method in methods)
