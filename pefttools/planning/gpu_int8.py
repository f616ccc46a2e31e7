"""int8 layers as a GPU runs them.

A CPU trains them with full weights in the input's format, and its operations have different temporaries; sizes here are
those of bitsandbytes' CUDA kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pefttools.planning.mode import Mode


def run_int8_as_on_a_gpu(model: nn.Module) -> None:
    """Make the int8 layers of a model multiply in int8 in training too."""
    from bitsandbytes.nn import Linear8bitLt

    for layer in model.modules():
        if isinstance(layer, Linear8bitLt):
            layer.forward = partial(_forward, layer)


class GpuInt8(Mode):
    """Within it bitsandbytes' int8 operations return and need as much memory as its CUDA kernels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        chosen = _KERNELS.get(func._opname, func) if func.namespace == "bitsandbytes" else func
        return chosen(*args, **(kwargs or {}))


def _forward(layer: Any, x: Tensor) -> Tensor:
    from bitsandbytes.autograd._functions import MatMul8bitLt

    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    result: Tensor = MatMul8bitLt.apply(x, layer.weight, None, bias, layer.state)
    return result


def _vectorwise_quant(a: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, None]:
    return torch.empty_like(a, dtype=torch.int8), a.new_empty(a.shape[:-1].numel(), dtype=torch.float32), None


def _scaled_mm(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, bias: Tensor | None = None,
               dtype: torch.dtype | None = None) -> Tensor:  # fmt: skip
    product = a.new_empty((*a.shape[:-1], b.shape[0]), dtype=torch.int32)
    out = torch.empty_like(product, dtype=torch.float16)  # the kernel supports no other; a bias is added in place
    return out.to(dtype or torch.float16)


_KERNELS: dict[str, Callable[..., Any]] = {"int8_vectorwise_quant": _vectorwise_quant, "int8_scaled_mm": _scaled_mm}
