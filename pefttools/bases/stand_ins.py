"""bitsandbytes' layers on the meta device: shapes and number formats of quantized weights, without values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: number of weights that share a scale, and of scales that share one
_BLOCK, _OUTER_BLOCK = 64, 256


def quantize_on_meta(model: nn.Module, config: Any) -> None:
    """Replace a meta model's linear layers by what loading with a quantization would have put there.

    Args:
        model: on the meta device.
        config: transformers' BitsAndBytesConfig.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model, device_map=None)
    quantizer._process_model_after_weight_loading(model)
    model.hf_quantizer = quantizer
    for module in model.modules():
        if isinstance(module, Linear4bit):
            _pack_4bit(module, config)
        elif isinstance(module, Linear8bitLt):
            _pack_8bit(module)


def _pack_4bit(module: Any, config: Any) -> None:
    module.weight = packed_on_meta(
        module.weight.shape,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
        module=module,
    )
    module.quant_state = module.weight.quant_state


def packed_on_meta(shape: torch.Size, *, compress_statistics: bool, quant_type: str, **options: Any) -> Any:
    """bitsandbytes' Params4bit of a weight of this shape.

    Args:
        shape: shape of the weight.
        compress_statistics: whether the scales are quantized too.
        quant_type: ``nf4`` or ``fp4``.
        options: further options of Params4bit.
    """
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit

    count = shape.numel()
    blocks = -(-count // _BLOCK)
    inner = None
    if compress_statistics:
        inner = QuantState(
            absmax=_meta(-(-blocks // _OUTER_BLOCK)), code=_meta(256), blocksize=_OUTER_BLOCK, dtype=torch.float32
        )
    state = QuantState(
        absmax=_meta(blocks, dtype=torch.float32 if inner is None else torch.uint8),
        shape=shape,
        code=_meta(16),
        blocksize=_BLOCK,
        quant_type=quant_type,
        dtype=torch.float32,
        offset=None if inner is None else _meta(),
        state2=inner,
    )
    return Params4bit(
        _meta(-(-count // 2), 1, dtype=torch.uint8),
        requires_grad=False,
        quant_state=state,
        blocksize=_BLOCK,
        compress_statistics=compress_statistics,
        quant_type=quant_type,
        bnb_quantized=True,
        **options,
    )


def _pack_8bit(module: Any) -> None:
    from bitsandbytes.nn import Int8Params

    weight = Int8Params(_meta(*module.weight.shape, dtype=torch.int8), requires_grad=False, has_fp16_weights=False)
    module.weight = weight
    module.state.CB, module.state.SCB = weight, _meta(weight.shape[0])


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
