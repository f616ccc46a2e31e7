"""The built-in base variants: float32, bfloat16, and int8 and nf4 by bitsandbytes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pefttools.bases.base import BaseVariant
from pefttools.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


class Float32(BaseVariant):
    """Weights in 32-bit floating point: 4 bytes each."""

    name = "float32"
    summary = "full precision, 4 bytes per weight"

    def load_arguments(self, keep: list[str]) -> dict[str, Any]:
        import torch

        return {"dtype": torch.float32}

    def stand_in(self, model: nn.Module, keep: list[str]) -> None:
        return


class BFloat16(BaseVariant):
    """Weights in bfloat16: 2 bytes each; the computation runs in bfloat16 too."""

    name = "bfloat16"
    summary = "half the memory, 2 bytes per weight"

    def load_arguments(self, keep: list[str]) -> dict[str, Any]:
        import torch

        return {"dtype": torch.bfloat16}

    def stand_in(self, model: nn.Module, keep: list[str]) -> None:
        import torch

        model.to(torch.bfloat16)


class Int8(BaseVariant):
    """LLM.int8() (https://arxiv.org/abs/2208.07339) without its outlier split: 1 byte per weight.

    The outlier threshold is 0, because with any other value one row of a batch changes the answer of its neighbours.
    """

    name = "int8"
    summary = "bitsandbytes int8, 1 byte per weight of the linear layers"
    quantized = True

    def load_arguments(self, keep: list[str]) -> dict[str, Any]:
        import torch
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=keep or None)
        return {"dtype": torch.float32, "quantization_config": config}

    def stand_in(self, model: nn.Module, keep: list[str]) -> None:
        from pefttools.bases.own_linear import as_plain
        from pefttools.bases.stand_ins import quantize_on_meta

        as_plain(model)
        quantize_on_meta(model, self.load_arguments(keep)["quantization_config"])

    def after_load(self, model: nn.Module) -> None:
        from bitsandbytes.nn import Linear8bitLt

        from pefttools.bases.own_linear import quantize

        quantize(model, self.load_arguments([])["quantization_config"])
        _check_stored(model, Linear8bitLt, self.name)
        for module in model.modules():
            if isinstance(module, Linear8bitLt):
                _settle_bias(module)


class NF4(BaseVariant):
    """NormalFloat 4 bit with double quantization, QLoRA (https://arxiv.org/abs/2305.14314): half a byte per weight."""

    name = "nf4"
    summary = "bitsandbytes NF4 with double quantization, 0.5 bytes per weight of the linear layers"
    quantized = True

    def load_arguments(self, keep: list[str]) -> dict[str, Any]:
        import torch
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=keep or None,
        )
        return {"dtype": torch.float32, "quantization_config": config}

    def stand_in(self, model: nn.Module, keep: list[str]) -> None:
        from pefttools.bases.own_linear import as_plain
        from pefttools.bases.stand_ins import quantize_on_meta

        as_plain(model)
        quantize_on_meta(model, self.load_arguments(keep)["quantization_config"])

    def after_load(self, model: nn.Module) -> None:
        from bitsandbytes.nn import Linear4bit

        from pefttools.bases.own_linear import quantize

        quantize(model, self.load_arguments([])["quantization_config"])
        _check_stored(model, Linear4bit, self.name)
        for module in model.modules():
            if isinstance(module, Linear4bit):
                # On CPUs with AVX512-BF16 the first forward in eval mode repacks the weight for a kernel that has no
                # backward: training after an evaluation then fails, or merges read the packed bytes as plain ones.
                module.support_avx512bf16_for_cpu = False
                _settle_bias(module)

    def compute_in(self, model: nn.Module, dtype: torch.dtype) -> None:
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.compute_dtype = dtype


def _check_stored(model: nn.Module, kind: type[nn.Module], variant: str) -> None:
    """Say where a variant stores little or nothing in few bits: bitsandbytes knows plain linear layers alone.

    Raises:
        ConfigError: nothing.
    """
    stored = {id(module.weight) for module in model.modules() if isinstance(module, kind)}
    if not stored:
        raise ConfigError(
            f"the base variant {variant!r} finds no plain linear layer in a {type(model).__name__}: "
            "all would stay float32",
            hint="Choose bfloat16, half the size of float32.",
        )
    plain = {name: p for name, p in model.named_parameters() if id(p) not in stored and p.ndim > 2}
    if plain:
        size = sum(p.nbytes for p in plain.values())
        warnings.warn(
            f"the base variant {variant!r} leaves {size / 1e9:.3g} GB in float32, in weights unknown to "
            f"bitsandbytes, such as {next(iter(plain))}",
            stacklevel=2,
        )


def _settle_bias(module: nn.Linear) -> None:
    """Round the bias to what bfloat16 can hold.

    bitsandbytes casts the bias in place to the dtype of whatever input comes by, so that a frozen base would drift
    by rounding as soon as it has seen one bfloat16 batch. A rounded bias survives that unchanged.
    """
    import torch

    if module.bias is not None:
        module.bias.data = module.bias.data.to(torch.bfloat16).to(torch.float32)
