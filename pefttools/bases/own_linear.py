"""Linear layers of a model's own class, such as Falcon's, which transformers' quantization skips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from pefttools.sites import block_linear, is_linear


def own_linear(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Names and layers of the backbone whose class is the model's own, and that compute what a plain one does."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    inside = set(block_linear(model))
    for name, module in list(model.named_modules()):
        plain = type(module) is nn.Linear or isinstance(module, Linear4bit | Linear8bitLt)
        if (
            name in inside
            and isinstance(module, nn.Linear)
            and is_linear(module)
            and not plain
            and _is_a_product(module)
        ):
            yield name, module


def as_plain(model: nn.Module) -> None:
    """Make them plain linear layers, so that a quantization of the whole model finds them."""
    for _, module in own_linear(model):
        module.__class__ = nn.Linear


def quantize(model: nn.Module, config: Any) -> None:
    """Replace them by bitsandbytes' layers, in a model whose other layers are quantized already.

    Args:
        model: with its weights.
        config: transformers' BitsAndBytesConfig.
    """
    for name, module in own_linear(model):
        model.set_submodule(name, _quantized(module, config))


def _is_a_product(module: nn.Linear) -> bool:
    """Whether a layer's own forward pass is ``x W^T + b``; without values it is assumed to be."""
    if module.weight.is_meta:
        return True
    # not random: loading must not change what the seed gives afterwards
    x = torch.linspace(-1, 1, 2 * module.in_features, dtype=module.weight.dtype, device=module.weight.device)
    x = x.reshape(2, -1)
    with torch.no_grad():
        return torch.allclose(module(x), nn.functional.linear(x, module.weight, module.bias), atol=1e-3, rtol=1e-3)


def _quantized(module: nn.Linear, config: Any) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    sizes = (module.in_features, module.out_features, module.bias is not None)
    weight, device = module.weight.data, module.weight.device
    made: Any
    with torch.device("meta"):
        if config.load_in_8bit:
            made = Linear8bitLt(*sizes, has_fp16_weights=False, threshold=config.llm_int8_threshold)
        else:
            made = Linear4bit(
                *sizes,
                config.bnb_4bit_compute_dtype,
                compress_statistics=config.bnb_4bit_use_double_quant,
                quant_type=config.bnb_4bit_quant_type,
            )
    kind = Int8Params if config.load_in_8bit else Params4bit
    options = {name: value for name, value in made.weight.__dict__.items() if name not in ("CB", "SCB")}
    made.weight = kind(weight, requires_grad=False, **options).to(device)
    made.bias = module.bias
    made.source_cls = nn.Linear  # as transformers notes it
    return cast("nn.Module", made)
