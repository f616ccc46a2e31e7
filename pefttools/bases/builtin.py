"""The built-in variants of the base: float32, bfloat16, and int8 and nf4 by bitsandbytes."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pefttools.bases.base import BaseVariant
from pefttools.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig


class Float32(BaseVariant):
    """Weights in 32-bit floating point: 4 bytes each."""

    name = "float32"
    smaller = ("bfloat16", "nf4")
    summary = "full precision, 4 bytes per weight"

    def load_arguments(self, keep: list[str], stored: torch.dtype) -> dict[str, Any]:
        import torch

        return {"dtype": torch.float32}

    def stand_in(self, model: nn.Module, keep: list[str], stored: torch.dtype) -> None:
        return


class BFloat16(BaseVariant):
    """Weights in bfloat16: 2 bytes each; the computation runs in bfloat16 too."""

    name = "bfloat16"
    smaller = ("nf4",)
    summary = "half the memory, 2 bytes per weight"

    def load_arguments(self, keep: list[str], stored: torch.dtype) -> dict[str, Any]:
        import torch

        return {"dtype": torch.bfloat16}

    def stand_in(self, model: nn.Module, keep: list[str], stored: torch.dtype) -> None:
        import torch

        model.to(torch.bfloat16)


class _BitsAndBytes(BaseVariant):
    """Linear layers in a few bits, by bitsandbytes; large weights that it can't pack stay in the checkpoint's 16."""

    quantized = True

    @abstractmethod
    def config(self, keep: list[str]) -> BitsAndBytesConfig:
        """transformers' description of the quantization.

        Args:
            keep: names of modules that must not be quantized.
        """

    @abstractmethod
    def layer_kind(self) -> Any:
        """Class of the quantized layers."""

    def load_arguments(self, keep: list[str], stored: torch.dtype) -> dict[str, Any]:
        return {"dtype": stored, "quantization_config": self.config(keep)}

    def stand_in(self, model: nn.Module, keep: list[str], stored: torch.dtype) -> None:
        from pefttools.bases.own_linear import as_plain
        from pefttools.bases.stand_ins import quantize_on_meta

        model.to(stored)
        as_plain(model)
        quantize_on_meta(model, self.config(keep))

    def after_load(self, model: nn.Module) -> None:
        from pefttools.bases.own_linear import quantize
        from pefttools.bases.unquantized import settle, warn_of_fused

        quantize(model, self.config([]))
        kind = self.layer_kind()
        layers = [module for module in model.modules() if isinstance(module, kind)]
        if not layers:
            raise ConfigError(
                f"the variant {self.name!r} finds no plain linear layer in a {type(model).__name__}: "
                "nothing would be quantized",
                hint="Choose bfloat16, half the size of float32.",
            )
        self.quantize_more(model)
        settle(model)
        for layer in layers:
            self.settle_layer(layer)
        warn_of_fused(model, self.name, "bitsandbytes")

    def quantize_more(self, model: nn.Module) -> None:
        """Quantize weights that are in no linear layer; does nothing by default."""

    def settle_layer(self, layer: Any) -> None:
        """Round the bias to what bfloat16 can hold.

        bitsandbytes casts the bias in place to the dtype of whatever input it gets, so that a frozen base would drift
        by rounding as soon as it has seen one bfloat16 batch. A rounded bias survives that unchanged.
        """
        import torch

        if layer.bias is not None:
            layer.bias.data = layer.bias.data.to(torch.bfloat16).to(torch.float32)


class Int8(_BitsAndBytes):
    """LLM.int8() (https://arxiv.org/abs/2208.07339) without its outlier split: 1 byte per weight.

    The outlier threshold is 0, because with any other value one row of a batch changes the answer of its neighbours.
    """

    name = "int8"
    summary = "bitsandbytes int8, 1 byte per weight of the linear layers"
    float16_on_cards = True

    def check(self) -> None:
        import torch

        if self.device is None or self.device.type != "cuda" or torch.version.hip is not None:
            return
        major, minor = torch.cuda.get_device_capability(self.device)
        if (major, minor) < (7, 5):
            raise ConfigError(
                f"the variant 'int8' needs a GPU of compute capability 7.5, and "
                f"{torch.cuda.get_device_name(self.device)} has {major}.{minor}",
                hint="Choose nf4, which runs on it.",
            )

    def config(self, keep: list[str]) -> BitsAndBytesConfig:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=keep or None)

    def layer_kind(self) -> Any:
        from bitsandbytes.nn import Linear8bitLt

        return Linear8bitLt

    def settle_layer(self, layer: Any) -> None:
        from pefttools.bases.int8_linear import Int8Linear

        super().settle_layer(layer)
        layer.__class__ = Int8Linear


class NF4(_BitsAndBytes):
    """NormalFloat 4 bit with double quantization, QLoRA (https://arxiv.org/abs/2305.14314): half a byte per weight."""

    name = "nf4"
    summary = "bitsandbytes NF4 with double quantization, 0.5 bytes per weight of the linear layers and of experts"

    def config(self, keep: list[str]) -> BitsAndBytesConfig:
        import torch
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=keep or None,
        )

    def layer_kind(self) -> Any:
        from bitsandbytes.nn import Linear4bit

        return Linear4bit

    def quantize_more(self, model: nn.Module) -> None:
        from pefttools.bases.experts import quantize_experts

        quantize_experts(model, quant_type="nf4", compress_statistics=True)

    def settle_layer(self, layer: Any) -> None:
        import torch

        super().settle_layer(layer)
        # On CPUs with AVX512-BF16 the first forward in eval mode repacks the weight for a kernel that has no backward:
        # training after an evaluation then fails, or merges read the packed bytes as plain ones.
        layer.support_avx512bf16_for_cpu = False
        # Loaded from float32 or from 16 bits: the same numbers, whatever format the computation runs in.
        layer.weight.quant_state.dtype = torch.float32

    def compute_in(self, model: nn.Module, dtype: torch.dtype) -> None:
        from bitsandbytes.nn import Linear4bit

        from pefttools.bases.experts import compute_experts_in

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.compute_dtype = dtype
        compute_experts_in(model, dtype)
