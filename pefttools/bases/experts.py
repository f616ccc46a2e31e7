"""The experts of a mixture: weights of all of them fused in one parameter, which no quantized linear layer can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize

from pefttools.sites import parametrized


def expert_weights(model: nn.Module) -> Iterator[tuple[nn.Module, list[str]]]:
    """Modules of fused experts, and the names of their own weights; biases are not among them."""
    for module in list(model.modules()):
        if "Expert" in type(module).__name__:
            names = [name for name, p in module.named_parameters(recurse=False) if p.ndim > 1 and "bias" not in name]
            if names:
                yield module, names


def quantize_experts(model: nn.Module, **options: Any) -> None:
    """Store fused experts in 4 bits. They are dequantized completely, one module at a time, when they run.

    Args:
        model: with its weights, or on the meta device.
        options: options of bitsandbytes' Params4bit.
    """
    from bitsandbytes.nn import Params4bit

    from pefttools.bases.stand_ins import packed_on_meta

    for module, names in expert_weights(model):
        for name in names:
            weight = getattr(module, name).detach()
            if weight.is_meta:
                packed = packed_on_meta(weight.shape, **options)
            else:
                packed = Params4bit(weight, requires_grad=False, **options).to(weight.device)
            packed.quant_state.dtype = torch.bfloat16
            setattr(module, name, packed)
            del weight  # before the next one is packed
            parametrize.register_parametrization(module, name, _Dequantized(), unsafe=True)
        compute_as_stored(module, names)


def compute_as_stored(module: nn.Module, names: list[str]) -> None:
    """Let a module of experts compute in its weights' number format, in a model whose hidden states have another.

    Args:
        module: its class is replaced by one that is derived from it.
        names: names of its weights.
    """
    kind = type(module)
    own = {"__module__": kind.__module__, "weight_names": tuple(names)}
    module.__class__ = type(kind.__name__, (_AsStored, kind), own)


def compute_experts_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Set the number format that quantized experts are dequantized to."""
    for module in model.modules():
        for chain in parametrized(module).values():
            chain.original.quant_state.dtype = dtype


class _Dequantized(nn.Module):
    """A parametrization: packed bytes -> weights, in the number format that their state says."""

    def forward(self, packed: Any) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        with torch.no_grad():
            return cast("torch.Tensor", dequantize_4bit(packed.data, packed.quant_state))


class _AsStored(nn.Module):
    """Mixed into a module of experts, before its own class."""

    weight_names: tuple[str, ...]

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with ExitStack() as stack:
            if parametrize.is_parametrized(self):
                # Each access would dequantize; what was cached before a method added to the weights is outdated.
                stack.enter_context(parametrize.cached())
                for name in self.weight_names:
                    parametrize._cache.pop((id(self), name), None)
                stack.enter_context(_dequantized_again(self, self.weight_names))
            weight: torch.Tensor = getattr(self, self.weight_names[0])
            out: torch.Tensor = super().forward(states.to(weight.dtype), *args, **kwargs)
        return out.to(states.dtype)


def _dequantized_again(module: nn.Module, names: tuple[str, ...]) -> AbstractContextManager[Any]:
    """A context in which autograd keeps no dequantized weight for the backward pass, which dequantizes it again.

    Otherwise all experts of all layers would be in memory, dequantized, at the end of the forward pass. Recomputed
    layers (checkpointing) keep nothing anyway, and have their own hooks.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return nullcontext()
    makers: dict[int, Any] = {}
    for name in names:
        chain: Any = module.parametrizations[name]  # type: ignore[index]
        if len(chain) == 1:  # if not, a method adds to the weight
            makers[getattr(module, name).untyped_storage()._cdata] = chain

    def pack(tensor: torch.Tensor) -> Any:
        maker = makers.get(tensor.untyped_storage()._cdata)
        return tensor if maker is None else (maker, tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        maker, *view = packed
        again: torch.Tensor = maker()
        return again.as_strided(*view)

    return saved_tensors_hooks(pack, unpack)
