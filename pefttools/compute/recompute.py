"""Activation checkpointing: layers whose activations are computed again in the backward pass.

Whole: a layer keeps only its input and runs again (Chen et al., https://arxiv.org/abs/1604.06174). Selective: see
`selective`.

Unlike transformers' own switch it leaves a cache that a layer reads where it is, so that prefixes train too.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pefttools.compute.selective import Selective
from pefttools.errors import ConfigError

Recompute = Literal["whole", "selective"]


def recompute_layers(model: nn.Module, kind: Recompute) -> None:
    """Make a transformers model recompute its layers in the backward pass.

    Args:
        model: its layers' forward is replaced, in training only.
        kind: what is recomputed.

    Raises:
        ConfigError: the model has no layers that transformers marks as such.
    """
    outer = outermost_layers(model)
    if not outer:
        raise ConfigError(
            f"{type(model).__name__} has no layers that could be recomputed in the backward pass",
            hint="Set training.gradient_checkpointing=false.",
        )
    for layer in outer:
        layer.forward = types.MethodType(partial(_forward, type(layer).forward, kind), layer)


def outermost_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers marks as layers, without those that are inside another one; in order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    inner = {id(below) for layer in layers for below in layer.modules() if below is not layer}
    return [layer for layer in layers if id(layer) not in inner]


def _forward(plain: Any, kind: Recompute, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not (layer.training and torch.is_grad_enabled()):
        return plain(layer, *args, **kwargs)
    if kind == "selective":
        with Selective():
            return plain(layer, *args, **kwargs)
    caches = _Caches((*args, *kwargs.values()))

    def run(*inner_args: Any, **inner_kwargs: Any) -> Any:
        # A layer adds its keys and values to the cache. In training nothing reads them after it, and the second run
        # must find the cache as the first one did.
        try:
            return plain(layer, *inner_args, **inner_kwargs)
        finally:
            caches.restore()

    return checkpoint(run, *args, use_reentrant=False, **kwargs)


class _Caches:
    """The state of transformers' caches among a layer's arguments."""

    def __init__(self, values: Iterable[Any]) -> None:
        from transformers.cache_utils import Cache, EncoderDecoderCache

        caches: list[Any] = [value for value in values if isinstance(value, (Cache, EncoderDecoderCache))]
        parts = [
            part
            for cache in caches
            for part in (
                (cache.self_attention_cache, cache.cross_attention_cache)
                if isinstance(cache, EncoderDecoderCache)
                else (cache,)
            )
        ]
        #: for caches with two parts: for which layers the second one holds something
        self._updated = [
            (cache.is_updated, dict(cache.is_updated)) for cache in caches if isinstance(cache, EncoderDecoderCache)
        ]
        self._layers = [(part, list(part.layers), [dict(vars(layer)) for layer in part.layers]) for part in parts]

    def restore(self) -> None:
        """Put it back."""
        for updated, before in self._updated:
            updated.clear()
            updated.update(before)
        for part, layers, states in self._layers:
            part.layers[:] = layers
            for layer, state in zip(layers, states, strict=True):
                layer.__dict__.clear()
                layer.__dict__.update(state)
