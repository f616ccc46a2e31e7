"""Training that starts from an artifact of another task: from its adapter, with a new head.

First learn a domain's language from its texts, or a related task, then the task itself:
Gururangan et al.: Don't Stop Pretraining, https://arxiv.org/abs/2004.10964
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pefttools.compute.moving import all_moved
from pefttools.errors import ConfigError
from pefttools.sites import transformers_models
from pefttools.tasks.task import Example
from pefttools.tuned import TunedModel

#: inputs of every base that reads texts
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def take_over(model: TunedModel, trained: TunedModel, folder: Path, probe: Sequence[Example], tolerance: float) -> None:
    """Put an adapter's weights into a model for another task, and check that the base's last states are the same.

    Args:
        model: ready for training.
        trained: the artifact's model, on the same device.
        folder: the artifact, for messages.
        probe: some rows, encoded for `model`.
        tolerance: largest difference that is taken for rounding, as a share of the largest state.

    Raises:
        ConfigError: the artifact lacks weights that are to be trained, or its states differ.
    """
    head, names = model.of_head(), _names(model)
    theirs = {name: parameter for parameter, name in _names(trained).items()}
    for name, parameter in model.trained().items():
        if name in head:
            continue
        found = theirs.get(names[parameter])
        if found is not None and found.shape != parameter.shape:
            raise ConfigError(
                f"from: {folder} can't be trained further: the method {model.spec.method.name!r} stores it in a "
                f"different form than it trains it in ({name})"
            )
        if found is None:
            raise ConfigError(
                f"from: {folder} was trained for the task {trained.spec.task.name!r}, and has no weights for {name}, "
                f"which the method {model.spec.method.name!r} trains here",
                hint="Start from an artifact of the same task, or of one that acts on the same layers.",
            )
        with torch.no_grad():
            parameter.copy_(found)
    batch = model.spec.task.collate(probe, model.processor)
    # A row may have several texts, one for each choice.
    inputs = all_moved({name: batch[name].flatten(0, -2) for name in _INPUTS if name in batch}, model.device)
    ours, wanted = _states(model, inputs), _states(trained, inputs)
    if ours.shape != wanted.shape or not torch.allclose(
        ours, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.abs().max()))
    ):
        raise ConfigError(
            f"from: with the weights of {folder} the base gives different states than the artifact's",
            hint=f"The method {model.spec.method.name!r} keeps more in an artifact than the weights that it trains.",
        )


def _backbone(model: TunedModel) -> nn.Module:
    """The base without any head."""
    found: nn.Module = transformers_models(model.transformer)[0].base_model
    return found


def _names(model: TunedModel) -> dict[torch.Tensor, str]:
    """Parameters by a name that does not depend on the head: their place in the backbone, if they are in it."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return names | {parameter: f"backbone.{name}" for name, parameter in _backbone(model).named_parameters()}


def _states(model: TunedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the backbone's last layer gives for a batch."""
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append(output[0].float())

    handle = _backbone(model).register_forward_hook(keep)
    try:
        with model.inference_mode(), model.precision():
            model.transformer(**inputs)
    except (ValueError, RuntimeError):
        if not found:  # if there are states, it is the head that wants rows of another form
            raise
    finally:
        handle.remove()
    return found[-1]
