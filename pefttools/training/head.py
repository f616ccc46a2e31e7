"""A head that is fitted to the training rows' features instead of being trained with the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pefttools.errors import ConfigError
from pefttools.objectives.features import inputs_of
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.task import Example
from pefttools.tuned import TunedModel


def fit_head(model: TunedModel, examples: Sequence[Example], batch_size: int) -> None:
    """Let the objective that fits the head do so; does nothing where there is none.

    Args:
        model: as it is to be evaluated.
        examples: the training rows, with their labels.
        batch_size: rows at a time.
    """
    objective = next((one for one in model.objectives if one.fits_head), None)
    if objective is None:
        return
    layer = head_layer(model)
    labels = torch.tensor([int(one["labels"]) for one in examples])
    objective.fit_head(layer, features_of(model, layer, examples, batch_size), labels)


def head_layer(model: TunedModel) -> nn.Linear:
    """The layer whose outputs are the logits, of a model that is trained or was loaded.

    Raises:
        ConfigError: the head ends in none.
    """
    if model.head is not None:
        found = list(model.head.modules())
    else:
        inside = [f".{module}." for module in model.spec.target.head_modules]
        # Where a method trains a copy of the head, the copy comes after the original.
        named = model.transformer.named_modules()
        found = [module for name, module in named if any(one in f".{name}." for one in inside)]
    layers = [module for module in found if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError(f"the head of {model.spec.task.name!r} ends in no linear layer")
    return layers[-1]


def features_of(model: TunedModel, layer: nn.Module, examples: Sequence[Example], batch_size: int) -> torch.Tensor:
    """What a layer reads of each row, in eval mode, ``[rows, ...]`` in float32 on the CPU."""

    def run(batch: list[Example]) -> list[torch.Tensor]:
        with inputs_of(layer) as read:
            model.run([{name: part for name, part in one.items() if name != "labels"} for one in batch])
        return list(read[-1].float().cpu())

    return torch.stack(in_order_of_size(examples, model.spec.task.sizes(examples), batch_size, run))
