"""Variants by torchao: int8, and 4 bits by HQQ. Their layers stay plain linear ones, on any device."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pefttools.bases.base import BaseVariant
from pefttools.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


class _TorchAo(BaseVariant):
    """Weights of linear layers as torchao tensors; the rest as `settle` leaves it."""

    quantized = True

    def check(self) -> None:
        if importlib.util.find_spec("torchao") is None:
            raise ConfigError(
                f"the variant {self.name!r} needs torchao, which is not installed",
                hint="pip install 'pefttools[torchao]'",
            )

    @abstractmethod
    def config(self) -> Any:
        """torchao's description of the quantization."""

    @abstractmethod
    def packed(self, weight: torch.Tensor) -> torch.Tensor | None:
        """What a weight ``[out, in]`` on the meta device is packed to; None if it is not packed."""

    def load_arguments(self, keep: list[str], stored: torch.dtype) -> dict[str, Any]:
        return {"dtype": stored, "quantization_config": self._described(keep)}

    def _described(self, keep: list[str]) -> Any:
        from transformers import TorchAoConfig

        from pefttools.bases.quiet import quiet_torchao

        with quiet_torchao():
            return TorchAoConfig(self.config(), modules_to_not_convert=keep or None)

    def stand_in(self, model: nn.Module, keep: list[str], stored: torch.dtype) -> None:
        from torch import nn
        from transformers.quantizers.auto import AutoHfQuantizer

        try:
            model.get_input_embeddings()  # type: ignore[operator]
        except NotImplementedError as error:
            raise ConfigError(
                f"the variant {self.name!r} can't be used with a {type(model).__name__}: transformers does not find "
                "its embeddings, which it must not pack",
                hint="Choose int8 or nf4, by bitsandbytes.",
            ) from error
        model.to(stored)
        quantizer: Any = AutoHfQuantizer.from_config(self._described(keep), pre_quantized=False)
        quantizer.preprocess_model(model, device_map=None)
        model.hf_quantizer = quantizer
        for name, module in model.named_modules():
            if quantizer.param_needs_quantization(model, f"{name}.weight"):
                packed = self.packed(module.get_parameter("weight"))
                if packed is not None:
                    module.weight = nn.Parameter(packed, requires_grad=False)
        self._layers(model)

    def after_load(self, model: nn.Module) -> None:
        from pefttools.bases.unquantized import settle, warn_of_fused

        layers = self._layers(model)
        for layer in layers:
            self.settle_layer(layer)
        settle(model)
        warn_of_fused(model, self.name, "torchao")

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers that are packed.

        Raises:
            ConfigError: there are none, or some with their own computation.
        """
        from torch import nn
        from torchao.utils import TorchAOBaseTensor

        layers = [one for one in model.modules() if isinstance(getattr(one, "weight", None), TorchAOBaseTensor)]
        if not layers:
            raise ConfigError(
                f"the variant {self.name!r} finds no linear layer in a {type(model).__name__} that it could pack: "
                "nothing would be quantized",
                hint="Choose bfloat16, half the size of float32.",
            )
        if own := next((layer for layer in layers if type(layer).forward is not nn.Linear.forward), None):
            raise ConfigError(
                f"the variant {self.name!r} can't be used with a {type(model).__name__}: its {type(own).__name__} "
                "does its own computation",
                hint="Choose int8 or nf4, by bitsandbytes.",
            )
        return layers

    def settle_layer(self, layer: Any) -> None:
        """Fix up what the loader leaves of a layer; does nothing by default."""


class TorchAoInt8(_TorchAo):
    """int8 with one scale for each output: 1 byte per weight."""

    name = "torchao-int8"
    summary = "torchao int8, 1 byte per weight of the linear layers"

    def config(self) -> Any:
        from torchao.quantization import Int8WeightOnlyConfig

        # Leave its compiler settings alone: they apply to the whole process, and are up to whoever compiles.
        return Int8WeightOnlyConfig(set_inductor_config=False)

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        from pefttools.bases.packed_tensors import PackedInt8

        scales = torch.empty(len(weight), 1, device="meta")
        found: torch.Tensor = PackedInt8(weight.to(torch.int8), scales, [1, weight.shape[1]], torch.float32)
        return found

    def settle_layer(self, layer: Any) -> None:
        from torch import nn

        from pefttools.bases.packed_tensors import PackedInt8

        own = layer.weight
        packed = PackedInt8(own.qdata, own.scale, own.block_size, own.dtype)
        layer.weight = nn.Parameter(packed, requires_grad=False)


class Hqq(_TorchAo):
    """Half-quadratic quantization, https://mobiusml.github.io/hqq_blog: 4 bits in groups of 64, chosen without data."""

    name = "hqq"
    summary = "4 bits by HQQ, 0.56 bytes per weight of the linear layers; stored by torchao"

    def config(self) -> Any:
        from pefttools.bases.packed_tensors import HqqConfig

        return HqqConfig()

    def packed(self, weight: torch.Tensor) -> torch.Tensor | None:
        import torch

        from pefttools.bases.packed_tensors import PackedHqq, group_of

        outputs, inputs = weight.shape
        group = group_of(inputs)
        if group is None:
            return None
        numbers = torch.empty(outputs, inputs // 2, dtype=torch.uint8, device="meta")
        scale, zero = (torch.empty(outputs, inputs // group, dtype=torch.float16, device="meta") for _ in range(2))
        return PackedHqq(numbers, scale, zero, torch.float32)
