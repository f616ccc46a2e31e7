"""What a model's layers give for each row: one vector, the mean over its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base
    from pefttools.objectives.inputs import Texts


@dataclass(frozen=True)
class Layers:
    """The layers of a base.

    Attributes:
        base: its id.
        count: number of its layers.
        size: of a hidden state.
    """

    base: str
    count: int
    size: int


def layers_of(base: Base, who: str) -> Layers:
    """How many layers a base has, and of which size, as its configuration says.

    Args:
        base: on disk.
        who: what reads their states, for errors.

    Raises:
        BaseModelError: its configuration can't be used.
        ConfigError: its layers are not all behind each other.
    """
    from pefttools.bases.skeleton import Skeleton

    config = Skeleton(base.id, base.folder, base.revision).configuration().get_text_config()
    count, size = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if getattr(config, "is_encoder_decoder", False) or not isinstance(count, int) or not isinstance(size, int):
        raise ConfigError(
            f"{who} reads hidden states, and the layers of {base.id!r} ({base.model_type}) are not one after the "
            "other, with states of one size"
        )
    return Layers(base.id, count, size)


def layer_modules(model: nn.Module, who: str) -> list[nn.Module]:
    """The layers of a wrapped model, in order.

    Raises:
        ConfigError: they can't be told.
    """
    from pefttools.compute.recompute import outermost_layers
    from pefttools.sites import transformers_models

    found = outermost_layers(model)
    named = transformers_models(model)[0]
    config = named.config.get_text_config()
    if len(found) != getattr(config, "num_hidden_layers", None):  # ALBERT runs one layer several times
        raise ConfigError(
            f"{who} reads hidden states, and the layers of {type(named).__name__} can't be identified one by one"
        )
    return found


@contextmanager
def outputs_of(modules: Sequence[nn.Module], numbers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What some layers give in the block, in the last pass.

    Args:
        modules: all layers.
        numbers: of those that are wanted, from 1.
    """
    given: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            given[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [modules[number - 1].register_forward_hook(keep(number)) for number in numbers]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def mean_of_each(states: Mapping[int, torch.Tensor], texts: Texts, rows: int, who: str) -> dict[int, torch.Tensor]:
    """The mean over the tokens of each row, by layer, ``[rows, hidden]`` in float32.

    Args:
        states: by layer, ``[rows, tokens, hidden]``; virtual tokens may stand before the tokens.
        texts: which tokens are not padding.
        rows: number of rows.
        who: what reads them, for errors.

    Raises:
        ConfigError: a layer gives no state for each token of each row.
    """
    found = {}
    for number, state in states.items():
        mask = texts.read
        if state.dim() != 3 or len(state) != rows or (mask is not None and state.shape[1] < mask.shape[1]):
            raise ConfigError(
                f"{who} needs a state of each token of each row, and layer {number} gives {list(state.shape)}"
            )
        if mask is None:
            found[number] = state.float().mean(1)
        else:
            weights = mask[..., None].float()
            sums = (state[:, -mask.shape[1] :].float() * weights).sum(1)
            found[number] = sums / weights.sum(1).clamp(min=1)
    return found
