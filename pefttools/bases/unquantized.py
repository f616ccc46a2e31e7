"""The weights that a quantized model does not store in a few bits.

Embeddings, the language head and experts make up most of them; they stay in the checkpoint's 16 bits, and
hidden states are converted on the way in and out. What is small (norms, biases, routers) is float32, as are the
hidden states.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from pefttools.bases.experts import compute_as_stored, expert_weights

#: number formats of half the size of float32
SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def settle(model: nn.Module) -> None:
    """Leave the large unpacked weights of a quantized model in 16 bits, and make all others float32.

    Args:
        model: loaded in its checkpoint's number format; with a float32 checkpoint everything stays as it is.
    """
    kept: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.dtype in SIXTEEN_BITS:
            kept.add(id(module.weight))
            module.register_forward_hook(_widen)
    head = language_head(model)
    if head is not None and head.weight.dtype in SIXTEEN_BITS:
        kept.add(id(head.weight))
        head.register_forward_pre_hook(_narrow)
        head.register_forward_hook(_widen)
    for module, names in expert_weights(model):
        weights = [getattr(module, name) for name in names]
        if all(weight.dtype in SIXTEEN_BITS for weight in weights):
            kept.update(map(id, weights))
            compute_as_stored(module, names)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in SIXTEEN_BITS and id(tensor) not in kept:
            tensor.data = tensor.data.float()
    for module in model.modules():
        _say_float32(module)


def warn_of_fused(model: nn.Module, variant: str, library: str) -> None:
    """Warn of unpacked weights that would make up most of the saving: no library packs fused ones.

    Args:
        model: quantized already.
        variant: name of the variant, for the message.
        library: the library that packs the weights of linear layers.
    """
    fused = {name: p for name, p in model.named_parameters() if p.ndim > 2 and p.is_floating_point()}
    if fused:
        size, formats = sum(p.nbytes for p in fused.values()), {str(p.dtype)[6:] for p in fused.values()}
        warnings.warn(
            f"the variant {variant!r} leaves {size / 1e9:.3g} GB in {' and '.join(sorted(formats))}, in "
            f"weights that {library} can't store in fewer bits, such as {next(iter(fused))}",
            stacklevel=3,
        )


def language_head(model: nn.Module) -> nn.Linear | None:
    """The plain linear layer that produces a language model's logits."""
    find = getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    return head if type(head) is nn.Linear else None


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight is stored in a few bits."""
    return not weight.is_floating_point() or hasattr(weight, "__tensor_flatten__")


def unquantized_bytes(model: nn.Module) -> int:
    """Size of a quantized model's frozen weights that are not stored in a few bits; 0 if it is not quantized."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}.values()
    if not any(is_packed(p) for p in frozen):
        return 0
    return sum(p.nbytes for p in frozen if not is_packed(p))


def _narrow(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    states, *rest = args
    # Under autocast the layer does so itself.
    cast = not torch.is_autocast_enabled(states.device.type)
    return (states.to(head.weight.dtype) if cast else states, *rest)


def _widen(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output if torch.is_autocast_enabled(output.device.type) else output.float()


def _say_float32(module: nn.Module) -> None:
    """transformers derives the number format of hidden states from a model's first weight, an embedding."""
    from transformers import PreTrainedModel

    kind = type(module)
    if isinstance(module, PreTrainedModel) and module.dtype in SIXTEEN_BITS:
        own = {"__module__": kind.__module__, "dtype": property(lambda _: torch.float32)}
        module.__class__ = type(kind.__name__, (kind,), own)
