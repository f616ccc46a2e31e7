"""Building a tuned model: a base that is loaded, given the task's head, and wrapped by a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from pefttools.bases import Base, BaseVariant, variants
from pefttools.errors import ConfigError
from pefttools.methods import Method, MethodConfig, TaskFacts
from pefttools.tasks import Task, TaskModel
from pefttools.tuned import Spec, TunedModel


def check_combination(method: Method[Any], config: MethodConfig, variant: BaseVariant, task: TaskFacts) -> None:
    """Refuse what can't go together, before anything is loaded.

    Raises:
        ConfigError: see `Method.check`, `BaseVariant.check`.
    """
    variant.check()
    method.check(config, variant, task)


def build(
    base: Base,
    variant_name: str,
    method: Method[Any],
    config: MethodConfig,
    task: Task[Any],
    labels: Sequence[str],
    *,
    precision: str,
    seed: int,
    roles: Collection[str] = (),
    gradient_checkpointing: bool | Literal["selective"] = False,
    device: torch.device | None = None,
) -> TunedModel:
    """Load a base, add the task's head and wrap it: a model ready to be trained.

    Args:
        base: the base model.
        variant_name: number format of its weights.
        method: the method that wraps it.
        config: the method's options.
        task: what it is trained for.
        labels: label names.
        precision: see `pefttools.wrap`.
        seed: for random initialisation.
        roles: column roles of the training data.
        gradient_checkpointing: recompute activations in the backward pass.
        device: device to move it to; None to leave it where it is loaded.

    Raises:
        ConfigError: a combination that can't work, a pattern that matches nothing, nothing to train.
    """
    variant = variants.get(variant_name)(device)
    check_combination(method, config, variant, task)
    if gradient_checkpointing:
        method.check_checkpointing()
    torch.manual_seed(seed)
    built = task.build(base, variant, labels)
    task.check_inputs(method, roles, built.processor)
    transformer = built.transformer
    method.check_model(config, transformer)
    if gradient_checkpointing:
        from pefttools.compute.recompute import recompute_layers

        recompute_layers(transformer, "selective" if gradient_checkpointing == "selective" else "whole")
    if device is not None:
        transformer = transformer.to(device)
    wrapped = method.wrap(transformer, config, built.target)
    model = assemble(built, wrapped, base, variant, method, config, task, labels, precision, device)
    if model.head is not None:
        model.head.requires_grad_(True)
    if model.count().trainable == 0 and method.capabilities.trains != "nothing":
        raise ConfigError(f"the method {method.name!r} trains nothing on this model with these options")
    return model


def assemble(
    built: TaskModel,
    wrapped: nn.Module,
    base: Base,
    variant: BaseVariant,
    method: Method[Any],
    config: MethodConfig,
    task: Task[Any],
    labels: Sequence[str],
    precision: str,
    device: torch.device | None,
    columns: Mapping[str, str] | None = None,
) -> TunedModel:
    """Put the parts together."""
    from pefttools.compute.precision import autocast_dtype

    spec = Spec(base, variant, method, config, task, tuple(labels), built.head_kind, built.target, dict(columns or {}))
    head = built.head if device is None or built.head is None else built.head.to(device)
    model = TunedModel(wrapped, head, spec, built.processor, None)
    model.autocast = autocast_dtype(precision, variant.name, model.device)
    variant.compute_in(wrapped, model.autocast or torch.float32)
    return model
