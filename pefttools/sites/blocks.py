"""The linear layers inside the repeated blocks of a model."""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import TYPE_CHECKING

from pefttools.errors import TargetError
from pefttools.sites.families import FAMILIES, BlockParts
from pefttools.sites.layers import base_modules, is_linear, parametrized

if TYPE_CHECKING:
    from torch import nn

_NUMBER = re.compile(r"(?P<blocks>.*?)\.(?P<block>\d+)(?:\.|$)")
_IN_BLOCK = re.compile(r"(?:^|.*\.)\d+\.(?P<part>[^\d].*)")


def block_parts(model: nn.Module) -> BlockParts:
    """What the linear layers of this model's blocks are called.

    Raises:
        TargetError: no family in the table fits; the message lists the linear layers that do exist.
    """
    names = set(_linear_parts(model).values())
    for parts in FAMILIES.values():
        needed = {
            *parts.keys_values,
            parts.attention_output,
            *parts.feed_forward_input,
            parts.feed_forward_output,
        }
        if needed <= names:
            return parts
    raise TargetError(
        "the parts of this model's blocks are not known",
        hint="Name the modules in the method's options. "
        f"Linear layers of its blocks: {', '.join(sorted(names)) or 'none'}.",
    )


def modules_at(model: nn.Module, part: str) -> list[str]:
    """Full names of the block layers that are called exactly `part` within their block."""
    return [name for name, inside in _linear_parts(model).items() if inside == part]


def all_linear(model: nn.Module) -> list[str]:
    """Full names of the linear layers inside the repeated blocks that are called on every device."""
    passed_by = read_past(model)
    return [name for name in _linear_parts(model) if name not in passed_by]


def block_linear(model: nn.Module) -> list[str]:
    """Full names of the linear layers inside the repeated blocks, whether they are called or only read."""
    return list(_linear_parts(model))


def read_past(model: nn.Module) -> set[str]:
    """Full names of linear layers of state-space mixers whose weights are read without calling the layer.

    Mamba and its kind run one kernel on a GPU, which is passed the weights of most of a mixer's layers: what is put on
    such a layer has an effect on a CPU and none there. Which layers these are is read from the mixer's own code.
    """
    kinds: dict[type, set[str]] = {}
    found = set()
    for name, mixer in model.named_modules():
        if not hasattr(mixer, "A_log"):
            continue
        if type(mixer) not in kinds:
            kinds[type(mixer)] = _weights_read_by(type(mixer))
        for own, layer in mixer.named_children():
            if own in kinds[type(mixer)] and is_linear(layer):
                found.add(f"{name}.{own}")
    return found


def _weights_read_by(kind: type) -> set[str]:
    """Children of which the methods of a module's class read the weight, except for those that initialise it."""
    found: set[str] = set()
    for name, method in vars(kind).items():
        if callable(method) and "init" not in name:
            with contextlib.suppress(OSError, TypeError):
                found |= set(re.findall(r"self\.(\w+)\.weight\b", inspect.getsource(method)))
    return found


def fused_weights(model: nn.Module) -> dict[str, int]:
    """Block weights that multiply as linear layers do, but are fused in one parameter of three or more dimensions.

    Mixtures of experts store all experts like this, XLNet its attention heads.

    Returns:
        Names of the parameters, and the number of their elements.
    """
    from torch.nn.modules.conv import _ConvNd

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            continue
        shapes = {own: parameter.shape for own, parameter in module.named_parameters(recurse=False)}
        shapes |= {own: packed.original.quant_state.shape for own, packed in parametrized(module).items()}
        for own, shape in shapes.items():
            full = f"{name}.{own}"
            if len(shape) > 2 and part_of(full):
                found[full] = shape.numel()
    return found


def block_of(name: str) -> tuple[str, int] | None:
    """The list of blocks that a module or parameter is in, and the number of its block; None if it is in none."""
    match = _NUMBER.match(name)
    return (match["blocks"], int(match["block"])) if match else None


def part_of(name: str) -> str | None:
    """A module's name within its block; None if it is in none."""
    match = _IN_BLOCK.fullmatch(name)
    return match["part"] if match else None


def _linear_parts(model: nn.Module) -> dict[str, str]:
    found = {}
    for name, module in base_modules(model):
        part = part_of(name)
        if part and is_linear(module):
            found[name] = part
    return found
