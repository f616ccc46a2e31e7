"""Prefix tuning of an encoder-decoder: each layer's self-attention, on both sides, gets trained keys and values.

Li, Liang: Prefix-Tuning, https://arxiv.org/abs/2101.00190

PEFT 0.21 supports only a prefix of the decoder, and gives half of it to the cross-attention, which drops it.

    encoder layer   attention(q, [P_k; k], [P_v; v])    with every token of the text
    decoder layer   the same, with the tokens written so far; their positions are counted after the prefix's
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError
from pefttools.methods import Target
from pefttools.sites import transformers_models

from .own import OwnMethod, train_heads
from .prefix_config import PrefixConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from pefttools.deltas import AdapterDeltas

#: name of the module that contains the states
CHILD = "prefix"
#: standard deviation of the initial states, so small that the base's outputs hardly change
_START = 0.02


def is_pair(model: nn.Module) -> bool:
    """Whether a model has an encoder and a decoder."""
    return bool(transformers_models(model)[0].config.is_encoder_decoder)


class PairPrefix(OwnMethod[PrefixConfig]):
    """Keys and values of both sides; `PrefixTuning` uses it on such bases."""

    name = "prefix"
    summary = "trained keys and values in every layer of both sides"
    config = PrefixConfig
    learning_rate = 1e-2

    def wrap(self, model: nn.Module, config: PrefixConfig, target: Target) -> nn.Module:
        import torch
        from torch import nn

        from pefttools.deltas.prefix_places import attentions

        sides = attentions(model)
        states = nn.Module()
        for name, layers in sides.items():
            heads, size = _heads(layers[0])
            like = next(layers[0].parameters())
            shape = (2 * len(layers), heads, config.length, size)
            first = torch.randn(shape, device=like.device) * _START
            states.register_parameter(name, nn.Parameter(first))
        model.add_module(CHILD, states)
        for place, attention in enumerate(sides["encoder"]):
            attention.register_forward_pre_hook(_Encoder(states, place), with_kwargs=True)
        decoder: nn.Module = model.get_decoder()  # type: ignore[operator]
        decoder.register_forward_pre_hook(_Decoder(states), with_kwargs=True)
        train_heads(model, target)
        return model

    def deltas(self, folder: Path, model: nn.Module, config: PrefixConfig, target: Target) -> AdapterDeltas:
        import torch

        from pefttools.deltas import AdapterDeltas, Prefix
        from pefttools.deltas.weights import read_state

        from .own import WEIGHTS

        state = read_state(folder / WEIGHTS, model)
        both = [state[f"{CHILD}.{side}"] for side in ("encoder", "decoder")]
        return AdapterDeltas({}, (Prefix(torch.cat(both)),))


def check_pair(model: nn.Module) -> None:
    """Refuse a base whose sides have heads of different sizes.

    Raises:
        ConfigError: the sizes differ.
    """
    from pefttools.deltas.prefix_places import attentions

    sides = attentions(model)
    if _heads(sides["encoder"][0]) != _heads(sides["decoder"][0]):
        raise ConfigError(
            f"the method 'prefix' can't be used on a {type(model).__name__}: its encoder and its decoder have heads of "
            "different sizes",
            hint="Choose another method, such as lora or bottleneck.",
        )


class _Encoder:
    """Puts keys and values before those of one attention of the encoder, and extends its mask accordingly."""

    def __init__(self, states: nn.Module, place: int) -> None:
        self._states = states
        self._place = place

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        from pefttools.deltas.prefix_places import before_texts

        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        hidden = given["hidden_states"]
        states = self._states.get_parameter("encoder")[2 * self._place : 2 * self._place + 2]
        return (), before_texts(module, given, states[:, None].expand(-1, len(hidden), -1, -1, -1))


class _Decoder:
    """Fills a cache that is still empty."""

    def __init__(self, states: nn.Module) -> None:
        self._states = states

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        from pefttools.deltas.prefix_places import before_what_is_written

        tokens = kwargs.get("input_ids")
        rows = len(kwargs["inputs_embeds"] if tokens is None else tokens)
        states = self._states.get_parameter("decoder")[:, None].expand(-1, rows, -1, -1, -1)
        return args, before_what_is_written(kwargs, states)


def _heads(attention: nn.Module) -> tuple[int, int]:
    """Number of heads of an attention, and their size."""
    found: Any = attention
    size = getattr(found, "key_value_proj_dim", None) or found.head_dim
    return int(getattr(found, "n_heads", None) or found.num_heads), int(size)
