"""Where in a model bottleneck adapters are placed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pefttools.errors import TargetError
from pefttools.sites import block_of, block_parts, input_size, match_modules, modules_at, output_size

if TYPE_CHECKING:
    from torch import nn

    from .config import BottleneckConfig


class Place(NamedTuple):
    """The place of one adapter.

    Attributes:
        name: of the module whose output the adapter adds to.
        inputs: size of the adapter's input.
        outputs: size of the adapter's output.
        reads: module whose input it reads; None for the output of the module that it adds to.
        norm: the module is a norm: the adapter adds to its input, and it runs again.
    """

    name: str
    inputs: int
    outputs: int
    reads: str | None = None
    norm: bool = False


class Residual(NamedTuple):
    """Where a block's feed-forward output has been added to the residual.

    Attributes:
        name: of the norm that the sum goes into, or of the block that returns the sum.
        size: of the sum's last dimension.
        norm: whether it is the norm.
    """

    name: str
    size: int
    norm: bool


def places(model: nn.Module, config: BottleneckConfig, method: str) -> list[Place]:
    """The places of a placement's adapters.

    Args:
        model: the model.
        config: the options.
        method: name of the method that they are options of, for messages.

    Raises:
        TargetError: the options name something that does not exist, or do not go together.
    """
    if config.inputs and config.placement != "parallel":
        raise TargetError(f"{method}.inputs is for the placement 'parallel' only")
    if config.placement == "parallel":
        pairs = parallel_sites(model, config, method)
        return [Place(write, *linear_sizes(model, read, write), reads=read) for read, write in pairs]
    if config.placement == "pfeiffer":
        return [Place(one.name, one.size, one.size, norm=one.norm) for one in residual_sites(model, config, method)]
    sizes = {name: output_size(model.get_submodule(name)) for name in serial_sites(model, config, method)}
    return [Place(name, size, size) for name, size in sizes.items()]


def serial_sites(model: nn.Module, config: BottleneckConfig, method: str) -> list[str]:
    """Linear layers that end a sub-layer."""
    if config.targets:
        return match_modules(model, config.targets, option=f"{method}.targets")
    parts = block_parts(model)
    names = modules_at(model, parts.feed_forward_output)
    if config.placement == "houlsby":
        names += [name for part in parts.attention_outputs for name in modules_at(model, part)]
    return _from_layer(names, config.first_layer, method)


def parallel_sites(model: nn.Module, config: BottleneckConfig, method: str) -> list[tuple[str, str]]:
    """Modules that are read, and those whose output is added to."""
    if bool(config.targets) != bool(config.inputs):
        raise TargetError(f"{method}.targets and {method}.inputs go together for the placement 'parallel'")
    if config.targets:
        reads = match_modules(model, config.inputs, option=f"{method}.inputs")
        writes = match_modules(model, config.targets, option=f"{method}.targets")
    else:
        parts = block_parts(model)
        reads, writes = (
            _from_layer(modules_at(model, part), config.first_layer, method)
            for part in (parts.feed_forward_input[0], parts.feed_forward_output)
        )
    if len(reads) != len(writes):
        raise TargetError(
            f"{method}: {len(reads)} inputs for {len(writes)} targets",
            hint=f"inputs: {', '.join(reads[:4])}...; targets: {', '.join(writes[:4])}...",
        )
    return list(zip(reads, writes, strict=True))


def residual_sites(model: nn.Module, config: BottleneckConfig, method: str) -> list[Residual]:
    """Where each block's feed-forward output has been added to the residual."""
    if config.targets:
        names = match_modules(model, config.targets, option=f"{method}.targets", linear_only=False)
        return [_norm(model, name, method) for name in names]
    parts, modules = block_parts(model), dict(model.named_modules())
    found = []
    for name in _from_layer(modules_at(model, parts.feed_forward_output), config.first_layer, method):
        block = name.removesuffix(f".{parts.feed_forward_output}")
        norm = f"{block}.{parts.final_norm}"
        if parts.final_norm is not None and norm in modules and _is_post_norm(model, block):
            found.append(_norm(model, norm, method))
        else:
            size = output_size(model.get_submodule(name))
            found.append(Residual(block, size, norm=False))
    return found


def linear_sizes(model: nn.Module, read: str, write: str) -> tuple[int, int]:
    """Input size of one linear layer, and output size of another."""
    return input_size(model.get_submodule(read)), output_size(model.get_submodule(write))


def _norm(model: nn.Module, name: str, method: str) -> Residual:
    module = model.get_submodule(name)
    weight = module._parameters.get("weight")
    if "norm" not in type(module).__name__.lower() or weight is None or weight.ndim != 1:
        raise TargetError(
            f"{method}.targets: {name} is a {type(module).__name__}; for the placement 'pfeiffer' the targets are "
            "the norms that end a block",
            hint="For linear layers use the placement 'feed-forward'.",
        )
    return Residual(name, weight.shape[0], norm=True)


def _is_post_norm(model: nn.Module, block: str) -> bool:
    """Whether a block ends in its last norm; OPT's and BART's norms have the same names in either position."""
    says = getattr(model.get_submodule(block), "do_layer_norm_before", None)
    if says is not None:
        return not says
    # A stack of pre-norm blocks ends in an additional norm.
    stack = model.get_submodule(".".join(block.split(".")[:-2]))
    return not any(name in ("layer_norm", "final_layer_norm") for name, _ in stack.named_children())


def _from_layer(names: list[str], first: int, method: str) -> list[str]:
    """Modules inside blocks, from a given block on.

    Raises:
        TargetError: there are none.
    """
    if not first:
        return names
    found = [name for name in names if (place := block_of(name)) is not None and place[1] >= first]
    if not found:
        raise TargetError(f"{method}.first_layer is {first}, but the model has no such block; the first one is 0")
    return found
