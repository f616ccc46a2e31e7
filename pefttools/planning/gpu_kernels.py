"""What CUDA does differently from the CPU, on whose tensors a plan is traced.

Attention: the CPU uses its math kernel as soon as there is dropout. On a GPU of compute capability 8.0 or higher
flash attention (https://arxiv.org/abs/2205.14135) runs without a mask in 16 bit, the memory-efficient kernel
otherwise; either keeps its inputs, its output and one float32 number per row and head, and draws dropout again in the
backward pass.

Autocast: CUDA's list of operations that run in float32 is longer than the CPU's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_F = torch.nn.functional
#: run in float32 under CUDA's autocast, in the input's format under the CPU's
_FLOAT32 = frozenset(
    {
        _F.layer_norm, torch.layer_norm, _F.group_norm, _F.softmax, torch.softmax, torch.Tensor.softmax,
        _F.log_softmax, torch.log_softmax, torch.Tensor.log_softmax, torch.pow, torch.Tensor.pow, torch.rsqrt,
        torch.Tensor.rsqrt, torch.exp, torch.Tensor.exp, torch.log, torch.Tensor.log, torch.sum, torch.Tensor.sum,
        torch.cumsum, torch.Tensor.cumsum, torch.prod, torch.norm, torch.Tensor.norm, _F.cross_entropy, _F.nll_loss,
        _F.softplus,
    }
)  # fmt: skip


class GpuKernels(TorchFunctionMode):
    """Replaces, at the level of Python calls, what a GPU does with kernels of its own.

    Args:
        flash: whether it has flash attention.
    """

    def __init__(self, flash: bool) -> None:
        super().__init__()
        self.flash = flash

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _F.scaled_dot_product_attention:
            return _attention(self.flash, *args, **kwargs)
        if func in _FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = tuple(_float(value) for value in args)
            kwargs = {name: _float(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _float(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def _attention(
    has_flash: bool,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    # Flash attention takes only values of the keys' size; latent attention has smaller ones.
    one_size = query.shape[-1] == value.shape[-1]
    flash = has_flash and attn_mask is None and query.dtype != torch.float32 and one_size
    if enable_gqa and not flash:
        # The memory-efficient kernel does not support groups: keys and values are repeated.
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype)
        if attn_mask.shape[-1] % 8:
            attn_mask = _F.pad(attn_mask, (0, 8 - attn_mask.shape[-1] % 8))
    attended: torch.Tensor = _FusedAttention.apply(query, key, value, attn_mask)
    return attended


class _FusedAttention(torch.autograd.Function):
    """The sizes of a fused kernel's results."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
        # Both kernels work on [rows, tokens, heads, size].
        rows, heads, tokens = query.shape[:-1]
        out = query.new_empty(rows, tokens, heads, value.shape[-1]).transpose(1, 2)
        scales = torch.empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, scales)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Any) -> Any:
        query, key, value, _, _, scales = ctx.saved_tensors
        delta = torch.empty_like(scales)
        # Flash attention adds up the queries' gradients in float32; the memory-efficient kernel does so for 16 bit.
        summed = torch.empty(query.shape, dtype=torch.float32) if query.dtype != torch.float32 else None
        # Per head of the queries; if several share a key, summed afterwards.
        of_heads = [torch.empty((*query.shape[:-2], *one.shape[-2:]), dtype=one.dtype) for one in (key, value)]
        shared = query.shape[-3] > key.shape[-3]
        of_keys = [torch.empty_like(one) for one in (key, value)] if shared else of_heads
        del delta, summed
        return torch.empty_like(query), *of_keys, None
