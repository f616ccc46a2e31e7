"""What the CPU's operations allocate internally and free before they return, which dispatch does not show."""

from __future__ import annotations

from typing import Any

import torch

from pefttools.planning.mode import Mode

_aten = torch.ops.aten
_POINTWISE = frozenset({_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor})


class CpuKernels(Mode):
    """Allocates those temporaries too.

    A product or sum of two formats first makes a copy of the operand with the narrower one; a GPU converts on the fly.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copies = []
        if func in _POINTWISE:
            tensors = [value for value in args if isinstance(value, torch.Tensor) and value.dim()]
            if len(tensors) == 2 and tensors[0].dtype != tensors[1].dtype:
                common = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
                copies = [tensor.to(common) for tensor in tensors if tensor.dtype != common]
        result = func(*args, **(kwargs or {}))
        del copies
        return result
