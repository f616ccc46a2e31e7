"""What the last layer of a head reads of each row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.tasks import Task


def check_reads_one_vector(name: str, task: Task[Any]) -> None:
    """Refuse a task whose head does not read one vector of a row with one label.

    Raises:
        ConfigError: says why.
    """
    if task.modality == "image-text":
        raise ConfigError(
            f"the objective {name!r} reads what a head's linear layer reads, and the task {task.name!r} answers by "
            "comparing an image with texts"
        )
    if not task.one_label:
        raise ConfigError(f"the objective {name!r} needs one label per row, which the task {task.name!r} has not")
    if task.why_no_head is not None:
        raise ConfigError(
            f"the objective {name!r} reads what a head of the task {task.name!r} reads: {task.why_no_head}"
        )


def check_one_vector(who: str, features: torch.Tensor | None) -> torch.Tensor:
    """What the head's linear layer reads, if that is one vector per row, ``[rows, hidden]``.

    Raises:
        ConfigError: it reads each token.
    """
    assert features is not None
    if features.dim() != 2:
        raise ConfigError(
            f"{who} needs one vector per row, and this model's own head reads each token",
            hint="Set task.head to mean, cls or last.",
        )
    return features


def last_linear(model: nn.Module, trained: Collection[torch.Tensor]) -> nn.Linear:
    """The layer of a head whose outputs are the logits.

    Args:
        model: the head, or the model that it is a part of.
        trained: parameters of the head.
    """
    from torch import nn

    known = set(map(id, trained))
    return [one for one in model.modules() if isinstance(one, nn.Linear) and id(one.weight) in known][-1]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a layer reads in the block, call by call."""
    read: list[torch.Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        read.append(args[0])

    handle = layer.register_forward_pre_hook(hook)
    try:
        yield read
    finally:
        handle.remove()
