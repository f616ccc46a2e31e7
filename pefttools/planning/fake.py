"""Fake tensors: they have shapes but no values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pefttools.planning.mode import Mode

#: what a module keeps separately, and what was replaced above
_OWN = ("_parameters", "_buffers", "_modules")


#: mark of a tensor none of whose elements is true
_NEVER = "pefttools_never"
_OF_NO_NUMBER = (torch.ops.aten.isinf.default, torch.ops.aten.isnan.default)
_ANY = (torch.ops.aten.any.default, torch.ops.aten.select.int, torch.ops.aten.view.default)


class WithoutNumbers(Mode):
    """Answers what can't be known without values with its maximum, and takes composite operations apart.

    Every element is assumed to be non-zero and finite, and every other question is answered with yes. Composite
    operations of bitsandbytes run as their parts, so that the temporaries between them are seen.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            (tensor,) = args
            return torch.empty((tensor.numel(), tensor.dim()), dtype=torch.long, device=tensor.device)
        if func in _OF_NO_NUMBER or (func in _ANY and hasattr(args[0], _NEVER)):
            never = func(*args, **(kwargs or {}))
            setattr(never, _NEVER, True)
            return never
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return not hasattr(args[0], _NEVER)
        if func is torch.ops.aten.index.Tensor and any(one is not None and one.dtype == torch.bool for one in args[1]):
            return func(args[0], _places(args[1]))
        if func is torch.ops.aten._grouped_mm.default:
            return _grouped_mm(*args, **(kwargs or {}))
        if func.namespace == "bitsandbytes" and func._opname in _IN_PARTS:
            with self:
                return _IN_PARTS[func._opname](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _places(indices: Iterable[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices with masks replaced by the positions that they select."""
    found: list[torch.Tensor | None] = []
    for one in indices:
        if one is not None and one.dtype == torch.bool:
            places = torch.empty((one.numel(), one.dim()), dtype=torch.long, device=one.device)
            found += places.unbind(1)
        else:
            found.append(one)
    return found


class SharedGradients(Mode):
    """In a backward pass: adds up a parameter's gradients in place, if the first of them is not a view.

    Autograd does so only with real tensors. Sums of a recomputed forward pass, with gradients on, are left alone.

    Args:
        shapes: shapes of the trained parameters.
    """

    def __init__(self, shapes: Iterable[torch.Size]) -> None:
        super().__init__()
        self._shapes = frozenset(shapes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sums = func is torch.ops.aten.add.Tensor and args[0].shape in self._shapes and not torch.is_grad_enabled()
        if sums and args[0].shape == getattr(args[1], "shape", None) and not args[0]._is_view():
            return torch.ops.aten.add_.Tensor(*args)
        return func(*args, **(kwargs or {}))


def _grouped_mm(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor | None = None, bias: torch.Tensor | None = None,
                dtype: torch.dtype | None = None) -> torch.Tensor:  # fmt: skip
    """Products of experts; torch's own fake version of it supports only bfloat16.

    Rows ``[n, k]`` by weights ``[experts, k, m]``, and, for the weights' gradients, ``[k, n]`` by rows ``[n, m]``.
    """
    shape: tuple[int, ...] = (a.shape[-2], b.shape[-1])
    if a.dim() == b.dim():
        shape = (a.shape[0] if ends is None else ends.shape[0], *shape)
    return a.new_empty(shape, dtype=dtype or a.dtype)


def _gemm_4bit(*args: Any, **options: Any) -> Any:
    from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

    return _gemm_4bit_default_impl(*args, **options)


def _int8_scaled_mm(a: Any, b: Any, rows: Any, columns: Any, bias: Any = None, dtype: Any = None) -> Any:
    product = torch.ops.bitsandbytes.int8_linear_matmul.default(a, b)
    return _int8_mm_dequant(product, rows, columns, dtype, bias)


def _int8_mm_dequant(a: Any, rows: Any, columns: Any, dtype: Any = None, bias: Any = None) -> Any:
    out = a.view(-1, a.shape[-1]) * (rows.reshape(-1, 1) * columns.reshape(1, -1)) * 1.0
    if bias is not None:
        out += bias
    return out.to(dtype or torch.float16)


def _int8_vectorwise_quant(a: Any, threshold: float = 0.0) -> Any:
    stats = torch.max(a.abs(), dim=1).values.float()
    return torch.round(a * (127.0 / stats.unsqueeze(-1))).to(torch.int8), stats, None


_IN_PARTS: dict[str, Callable[..., Any]] = {
    "gemm_4bit": _gemm_4bit,
    "int8_scaled_mm": _int8_scaled_mm,
    "int8_mm_dequant": _int8_mm_dequant,
    "int8_vectorwise_quant": _int8_vectorwise_quant,
}


def to_fake(model: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Replace a meta model's parameters and buffers by fake ones on a device; shared ones stay shared."""
    made: dict[int, torch.Tensor] = {}
    kept: list[Any] = []  # so that no id is given twice

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made and hasattr(tensor, "__tensor_flatten__"):  # a subclass, made of other tensors
            kept.append(tensor)
            names, rest = tensor.__tensor_flatten__()
            inner = {name: fake(getattr(tensor, name)) for name in names}
            kind: Any = type(tensor)
            whole = kind.__tensor_unflatten__(inner, rest, tensor.shape, tensor.stride())
            made[id(tensor)] = nn.Parameter(whole, requires_grad=tensor.requires_grad)
        if id(tensor) not in made:
            kept.append(tensor)
            with mode:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                parameter = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                parameter.__dict__.update({name: replaced(value) for name, value in vars(tensor).items()})
                if type(tensor) is not nn.Parameter:
                    # PEFT recognises quantized weights by the name of their class.
                    parameter.__class__ = type(type(tensor).__name__, (type(parameter),), {})
                empty = parameter
            made[id(tensor)] = empty
        return made[id(tensor)]

    def replaced(value: Any) -> Any:
        """Tensors that are kept as plain attributes: alone, in a dictionary, or in a quantized layer's state."""
        if isinstance(value, torch.Tensor):
            return fake(value)
        if isinstance(value, dict) and any(isinstance(one, torch.Tensor) for one in value.values()):
            return {key: replaced(one) for key, one in value.items()}
        if type(value).__name__ in ("QuantState", "MatmulLtState"):
            twin = copy.copy(value)
            twin.__dict__.update({name: replaced(one) for name, one in vars(value).items()})
            return twin
        return value

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    own[name] = fake(tensor)  # type: ignore[assignment]
        for name, value in list(vars(module).items()):
            if name not in _OWN:
                module.__dict__[name] = replaced(value)
