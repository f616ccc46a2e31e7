"""Weights in a few bits as torchao tensors: to all other code, a linear layer that holds one is a plain one.

torchao's own int8 tensor keeps, for the backward pass, a copy of every weight in the format of its input: in training
nothing would be saved. Here the packed numbers are kept, and unpacked again. This module needs torchao.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torchao.core.config import AOBaseConfig
from torchao.quantization import Int8Tensor
from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq
from torchao.quantization.transform_module import register_quantize_module_handler
from torchao.utils import TorchAOBaseTensor

#: how many weights share a scale and a zero: the first that divides a layer's inputs; if none does, it is not packed
GROUPS = (64, 32, 16)


class _Linear(torch.autograd.Function):
    """``x W^T + bias`` with W unpacked for the forward pass, and again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight, ctx.biased = weight, bias is not None and bias.requires_grad
        out = linear(x.flatten(0, -2), weight.dequantize(x.dtype), None if bias is None else bias.to(x.dtype))
        # Must not be a view for autograd: some models change a layer's output in place.
        shaped: torch.Tensor = torch.ops.aten._unsafe_view(out, [*x.shape[:-1], out.shape[-1]])
        return shaped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[Any, ...]:
        of_x = outer @ ctx.weight.dequantize(outer.dtype) if ctx.needs_input_grad[0] else None
        return of_x, None, outer.flatten(0, -2).sum(0) if ctx.biased else None


def _linear(func: Any, types: Any, args: Any, kwargs: Any) -> torch.Tensor:
    x, weight, bias = (*args, None)[:3] if not kwargs else (args[0], args[1], kwargs.get("bias"))
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    with torch.autocast(x.device.type, enabled=False):
        result: torch.Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class PackedInt8(Int8Tensor):  # type: ignore[misc]
    """torchao's int8 weights, one scale for each output."""


PackedInt8.implements_torch_function(linear)(_linear)


class PackedHqq(TorchAOBaseTensor):  # type: ignore[misc]
    """4 bits, as half-quadratic quantization chooses them: ``(numbers - zero) * scale`` in groups of inputs.

    Args:
        qdata: two numbers per byte, ``[out, in / 2]`` uint8; the first in the low bits.
        scale: ``[out, groups]`` float16.
        zero: ``[out, groups]`` float16.
        dtype: number format of the weight that it stands for.
    """

    tensor_data_names = ["qdata", "scale", "zero"]  # noqa: RUF012
    tensor_attribute_names = ["dtype"]  # noqa: RUF012

    def __new__(cls, qdata: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, dtype: torch.dtype) -> PackedHqq:
        shape = (qdata.shape[0], qdata.shape[1] * 2)
        made: PackedHqq = torch.Tensor._make_wrapper_subclass(
            cls, shape, device=qdata.device, dtype=dtype, requires_grad=False
        )
        return made

    def __init__(self, qdata: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.qdata, self.scale, self.zero = qdata, scale, zero

    @classmethod
    def of(cls, weight: torch.Tensor, group: int) -> PackedHqq:
        """Pack a weight ``[out, in]`` whose inputs are a multiple of the group."""
        numbers, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
            weight.detach(), nbits=4, group_size=group, compute_dtype=torch.float16, device=str(weight.device),
            raw_output=True,
        )  # fmt: skip
        return cls(numbers[:, ::2] | numbers[:, 1::2] << 4, scale, zero, weight.dtype)

    def dequantize(self, output_dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight that it stands for, ``[out, in]``."""
        numbers = torch.stack([self.qdata & 15, self.qdata >> 4], dim=-1).view(*self.scale.shape, -1)
        weight = (numbers.float() - self.zero.float()[..., None]) * self.scale.float()[..., None]
        return weight.view(self.shape).to(output_dtype or self.dtype)


PackedHqq.implements_torch_function(linear)(_linear)


def group_of(inputs: int) -> int | None:
    """How many weights share a scale and a zero in a layer of that many inputs; None if it is not packed."""
    return next((size for size in GROUPS if inputs % size == 0), None)


@dataclass
class HqqConfig(AOBaseConfig):  # type: ignore[misc]
    """torchao's description of a quantization to `PackedHqq`."""


def _pack(module: nn.Module, config: HqqConfig) -> nn.Module:
    weight = module.get_parameter("weight")
    group = group_of(weight.shape[1])
    if group is not None:
        module.weight = nn.Parameter(PackedHqq.of(weight, group), requires_grad=False)
    return module


register_quantize_module_handler(HqqConfig)(_pack)
