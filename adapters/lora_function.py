"""LoRA's forward and backward pass, keeping only what the gradients need.

Autograd over PEFT's modules keeps, per layer, a float32 copy of the input if the base computes in another format,
the input after dropout with its noise, and under autocast a copy of the weight; it scales and adds in separate
passes. Here one function keeps the original input (shared by layers that read the same input), one byte per element
if there is dropout, and the product with A; the update is accumulated into the base's output by the matrix product.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from pefttools.bases.unquantized import is_packed


def keep_less(model: nn.Module) -> None:
    """Make PEFT's LoRA layers on linear layers train with the functions of this file.

    Layers that do something else, such as DoRA's or merged ones, keep PEFT's code, as does everything without
    gradients.
    """
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        # Other methods' layers are of its class, but multiply otherwise.
        plain = type(layer).__module__.startswith("peft.tuners.lora.")
        if plain and isinstance(layer, LoraLayer) and isinstance(layer.base_layer, nn.Linear):
            layer.forward = types.MethodType(_forward, layer)


def _forward(layer: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    plain = type(layer).forward
    names = layer.active_adapters
    by_peft = (
        args or options or not torch.is_grad_enabled() or layer.disable_adapters or layer.merged or len(names) != 1
        or names[0] not in layer.lora_A or names[0] in layer.lora_variant or layer.lora_bias[names[0]]
        or not x.is_floating_point() or not x.numel()
    )  # fmt: skip
    if by_peft:
        result: Tensor = plain(layer, x, *args, **options)
        return result
    (name,) = names
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    dropout = layer.lora_dropout[name]
    rate = float(dropout.p) if isinstance(dropout, nn.Dropout) and layer.training else 0.0
    base, scale = layer.base_layer, float(layer.scaling[name])
    cast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
    plain_numbers = type(base) is nn.Linear and not is_packed(base.weight)
    if plain_numbers and not any(p.requires_grad for p in base.parameters()):
        result = _Linear.apply(x, base.weight, base.bias, a, b, scale, rate, cast)  # type: ignore[no-untyped-call]
    else:
        result = _Update.apply(base(x), x, a, b, scale, rate, cast)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    """``W x + bias + scale B A dropout(x)`` with W and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, rate: float,
        cast: torch.dtype | None,
    ) -> Tensor:  # fmt: skip
        own = cast or weight.dtype
        with torch.autocast(x.device.type, enabled=False):
            out = linear(_rows(x, own), weight.to(own), None if bias is None else bias.to(own))
            _add_update(ctx, out, x, a, b, scale, rate, cast)
        ctx.weight = weight  # frozen: nothing will change it
        # Not a view to autograd: some models change a layer's output in place.
        shaped: Tensor = torch.ops.aten._unsafe_view(out, [*x.shape[:-1], out.shape[-1]])
        return shaped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        rows = outer.reshape(-1, outer.shape[-1])
        of_x = rows @ ctx.weight.to(rows.dtype) if ctx.needs_input_grad[0] else None
        of_a, of_b = _gradients(ctx, rows, of_x, ctx.needs_input_grad[3:5])
        return None if of_x is None else of_x.view(ctx.shape).to(ctx.dtype), None, None, of_a, of_b, None, None, None


class _Update(torch.autograd.Function):
    """``base + scale B A dropout(x)``, for any base."""

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, rate: float, cast: torch.dtype | None
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out = base.clone()  # it may be a view, which autograd does not allow to be changed
            _add_update(ctx, out.view(-1, out.shape[-1]), x, a, b, scale, rate, cast)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        rows = outer.reshape(-1, outer.shape[-1])
        of_x = rows.new_zeros(rows.shape[0], ctx.shape[-1]) if ctx.needs_input_grad[1] else None
        of_a, of_b = _gradients(ctx, rows, of_x, ctx.needs_input_grad[2:4])
        return outer, None if of_x is None else of_x.view(ctx.shape).to(ctx.dtype), of_a, of_b, None, None, None


def _add_update(
    ctx: Any, out: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, rate: float, cast: torch.dtype | None
) -> None:
    """Add the update to ``out`` ``[n, out]``, and keep what `_gradients` will need."""
    own = cast or a.dtype
    rows, mask = _rows(x, own), None
    if rate:
        rows, mask = torch.native_dropout(rows, rate, True)
    low = rows @ a.to(own).T
    if out.dtype == own:
        out.addmm_(low, b.to(own).T, alpha=scale)
    else:
        out.add_(low @ b.to(own).T, alpha=scale)
    ctx.save_for_backward(x, mask, low, a, b)
    ctx.scale, ctx.rate, ctx.own, ctx.shape, ctx.dtype = scale, rate, own, x.shape, x.dtype


def _gradients(
    ctx: Any, outer: Tensor, of_x: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of A and B, if wanted; that of the input is added to ``of_x``."""
    x, mask, low, a, b = ctx.saved_tensors
    of_low = outer.to(ctx.own) @ b.to(ctx.own)
    of_low *= ctx.scale
    if of_x is not None:
        if mask is None and of_x.dtype == ctx.own:
            of_x.addmm_(of_low, a.to(ctx.own))
        else:
            update = of_low @ a.to(ctx.own)
            of_x += update if mask is None else _dropped(update, mask, ctx.rate)
    of_a = of_b = None
    if wanted[0]:
        rows = _rows(x, ctx.own)
        of_a = (of_low.T @ (rows if mask is None else _dropped(rows, mask, ctx.rate))).to(a.dtype)
    if wanted[1]:
        of_b = (outer.to(ctx.own).T @ low).mul_(ctx.scale).to(b.dtype)
    return of_a, of_b


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.reshape(-1, x.shape[-1]).to(dtype)


def _dropped(rows: Tensor, mask: Tensor, rate: float) -> Tensor:
    return rows * mask / (1 - rate)
