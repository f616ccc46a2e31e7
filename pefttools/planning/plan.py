"""What each combination of method and base variant would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pefttools.bases import variants
from pefttools.bases.loading import quiet
from pefttools.bases.skeleton import Skeleton, skeleton
from pefttools.errors import ConfigError
from pefttools.planning.trace import DEVICE, Traced, trace_evaluation, trace_training
from pefttools.recipe import choose_method, choose_task
from pefttools.training.precision import resolve_precision
from pefttools.tuned import TunedModel, build


@dataclass(frozen=True)
class Row:
    """One line of a plan; sizes in bytes, with the CPU's kernels.

    Attributes:
        method: its name.
        base: the base variant.
        trainable_parameters: the task head's among them.
        weights_bytes: all parameters and buffers, trained ones too, at the training peak.
        gradients_bytes: at the training peak.
        optimizer_bytes: at the training peak.
        activations_bytes: activations and temporaries at the training peak.
        persistent_bytes: what stands between two steps.
        peak_bytes: training peak.
        peak_at: module that ran at the peak.
        evaluation_bytes: peak of a forward pass without gradients.
    """

    method: str
    base: str
    trainable_parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    persistent_bytes: int
    peak_bytes: int
    peak_at: str
    evaluation_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Field -> value."""
        return asdict(self)


@dataclass(frozen=True)
class Shape:
    """Of a training.

    Attributes:
        batch_size: rows of one optimizer step.
        length: tokens of each row.
        accumulation: forward passes of one step.
        eval_batch_size: rows of a forward pass in evaluation.
        precision: as in a recipe.
    """

    batch_size: int = 32
    length: int = 128
    accumulation: int = 1
    eval_batch_size: int = 64
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "length", "accumulation", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ConfigError(f"batch_size={self.batch_size} can't be divided by accumulation={self.accumulation}")


def plan(
    base: str,
    *,
    task: str | Mapping[str, Any] = "sequence-classification",
    methods: Sequence[str | Mapping[str, Any]] = ("lora",),
    bases: Sequence[str] = ("float32",),
    labels: int = 2,
    shape: Shape | None = None,
) -> list[Row]:
    """Predict the memory of trainings, without loading a weight.

    Args:
        base: folder (one with nothing but ``config.json`` will do), ``package:`` reference or hub id.
        task: name of a task, or a mapping with name and options.
        methods: names, or mappings with name and options.
        bases: base variants.
        labels: number of labels, where the task has labels.
        shape: of the training.

    Raises:
        PeftToolsError: a name, an option or a combination that can't work, or can't be traced.
    """
    found = skeleton(base)
    shape = shape or Shape()
    return [row_of(found, task, method, variant, labels, shape) for variant in bases for method in methods]


def row_of(
    base: Skeleton,
    task: str | Mapping[str, Any],
    method: str | Mapping[str, Any],
    variant: str,
    labels: int,
    shape: Shape,
) -> Row:
    """One line of a plan; see `plan`."""
    chosen, config = choose_method({"name": method} if isinstance(method, str) else dict(method))
    chosen_task = choose_task(task if isinstance(task, str) else dict(task))
    names = [str(number) for number in range(labels)] if chosen_task.roles.get("label") else []

    precision = resolve_precision(shape.precision, DEVICE)

    def fresh() -> TunedModel:
        try:
            with torch.device("meta"), quiet():
                return build(
                    base, variants.get(variant).name, chosen, config, chosen_task, names,
                    precision=precision, seed=0,
                )  # fmt: skip
        except NotImplementedError as error:
            raise ConfigError(
                f"memory can't be planned for the method {chosen.name!r} with these options: it needs the weights' "
                "numbers to begin with"
            ) from error

    model = fresh()
    count = model.count()
    training = trace_training(model, shape.batch_size // shape.accumulation, shape.length, shape.accumulation)
    evaluation = trace_evaluation(fresh(), shape.eval_batch_size, shape.length)
    return _row(chosen.name, variant, count.trainable, training, evaluation)


def _row(method: str, variant: str, trainable: int, training: Traced, evaluation: Traced) -> Row:
    return Row(
        method=method,
        base=variant,
        trainable_parameters=trainable,
        weights_bytes=training.peak["weights"],
        gradients_bytes=training.peak["gradients"],
        optimizer_bytes=training.peak["optimizer"],
        activations_bytes=training.peak["other"],
        persistent_bytes=training.persistent.total(),
        peak_bytes=training.peak.total(),
        peak_at=training.peak_at,
        evaluation_bytes=evaluation.peak.total(),
    )
