"""The bottleneck network and how it is attached: as a child of its site, called by a forward hook.

No module of the base is replaced, so the base keeps its parameter names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .config import CHILD

if TYPE_CHECKING:
    from .config import BottleneckConfig
    from .sites import Place

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Addition(nn.Module):
    """A module whose output is added to another module's states."""

    of_adapter = True

    def __init__(self) -> None:
        super().__init__()
        #: the sub-layer's input, between the two hooks of a parallel adapter
        self.waiting: torch.Tensor | None = None


class Bottleneck(Addition):
    """``scale * up(act(down(x)))``, in float32 parameters; zero at the start, so that training starts from the base.

    Args:
        down: from the input size to the width.
        up: from the width to the output size; it returns zeros at the start.
        config: activation, scale and dropout.
    """

    def __init__(self, down: nn.Module, up: nn.Module, config: BottleneckConfig) -> None:
        super().__init__()
        self.down = down
        self.activation = _ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)
        self.up = up
        self.scale = config.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(next(self.down.parameters()).dtype)
        result: torch.Tensor = self.up(self.dropout(self.activation(self.down(x)))) * self.scale
        return result


def plain(inputs: int, outputs: int, config: BottleneckConfig, device: torch.device) -> Bottleneck:
    """A bottleneck of two linear layers.

    Args:
        inputs: size of the last dimension of ``x[..., inputs]``.
        outputs: size of the last dimension of the result.
        config: its options.
        device: where it is.
    """
    down = nn.Linear(inputs, config.size, device=device, dtype=torch.float32)
    up = nn.Linear(config.size, outputs, device=device, dtype=torch.float32)
    nn.init.normal_(down.weight, std=inputs**-0.5)
    nn.init.zeros_(down.bias)
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)
    return Bottleneck(down, up, config)


def attach(model: nn.Module, place: Place, make: Callable[[torch.device], Addition], child: str = CHILD) -> None:
    """Put an adapter in its place, under the name `child` of the module to whose output it adds.

    Args:
        model: the model.
        place: where.
        make: makes it on a device.
        child: its name.
    """
    site = model.get_submodule(place.name)
    adapter = make(next(site.parameters()).device)
    if place.reads is not None:
        attach_parallel(model.get_submodule(place.reads), site, adapter, child)
    elif place.norm:
        attach_around_norm(site, adapter, child)
    else:
        attach_serial(site, adapter, child)


def attach_serial(site: nn.Module, adapter: nn.Module, child: str = CHILD) -> None:
    """Add an adapter, under the name `child`, after the output of `site`, a layer or a block."""
    site.add_module(child, adapter)
    site.register_forward_hook(partial(_add_serial, child))


def attach_around_norm(norm: nn.Module, adapter: nn.Module, child: str = CHILD) -> None:
    """Add an adapter from the output of `norm` to its input, on which the norm then runs again."""
    norm.add_module(child, adapter)
    norm.register_forward_hook(partial(_add_around_norm, child))


def attach_parallel(reader: nn.Module, writer: nn.Module, adapter: Addition, child: str = CHILD) -> None:
    """Add an adapter from the input of `reader` to the output of `writer`, which runs after it."""
    writer.add_module(child, adapter)
    # The reader must refer to the adapter without owning it, otherwise its parameters would have two names.
    object.__setattr__(reader, "parallel_bottleneck", adapter)
    reader.register_forward_pre_hook(_keep_input)
    writer.register_forward_hook(partial(_add_parallel, child))


def _add_serial(child: str, site: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    # Some blocks return more than their states.
    states, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
    added: torch.Tensor = site.get_submodule(child)(states)
    states = states + added.to(states.dtype)
    return states if rest is None else (states, *rest)


def _add_around_norm(child: str, norm: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    added: torch.Tensor = norm.get_submodule(child)(output)
    # Bypassing the hooks, of which this is one.
    result: torch.Tensor = norm.forward(args[0] + added.to(args[0].dtype))
    return result


def _keep_input(reader: nn.Module, args: tuple[Any, ...]) -> None:
    adapter = reader.parallel_bottleneck
    assert isinstance(adapter, Addition)
    adapter.waiting = args[0]


def _add_parallel(child: str, site: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    adapter = site.get_submodule(child)
    assert isinstance(adapter, Addition)
    assert adapter.waiting is not None
    x, adapter.waiting = adapter.waiting, None
    added: torch.Tensor = adapter(x)
    return output + added.to(output.dtype)
