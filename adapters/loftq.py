"""LoftQ: a LoRA initialized to compensate for the quantization error of the base.

Li et al.: LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models, https://arxiv.org/abs/2310.08659

    W - Q(W) = U S V^T,    (alpha / r) B A = U_r S_r V_r^T

The paper then quantizes the rest of W again, and so on. Here the base is shared by many adapters and stays unchanged:
one step, after which the model is as close to the original as a rank of r allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError

from .lora_starts import put_in

if TYPE_CHECKING:
    from torch import nn

#: maximum relative quantization error of a weight in 4 bits
_OF_WEIGHT = 0.3


def start_from_rounding(model: nn.Module, adapter: str) -> None:
    """Set A and B to the best approximation of each weight's quantization error.

    The original model is read once more, in its stored format, and freed afterwards.

    Args:
        model: wrapped by PEFT, on a quantized base.
        adapter: PEFT's name of the adapter.

    Raises:
        ConfigError: the original can't be read, or is not what was quantized.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    from pefttools.bases.quiet import quiet
    from pefttools.bases.unquantized import is_packed
    from pefttools.deltas.weights import dense_weight

    base: Any = model.get_base_model()  # type: ignore[operator]
    if next(base.parameters()).is_meta:
        return
    folder = base.config.name_or_path
    try:
        with quiet():
            original = type(base).from_pretrained(folder, dtype="auto")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"lora.start=loftq reads the original weights, and {folder!r} can't be read: {error}"
        ) from error
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer) or not is_packed(layer.get_base_layer().weight):
            continue  # not quantized: no error
        quantized = dense_weight(layer.get_base_layer()).float()
        weight = dense_weight(original.get_submodule(name)).to(quantized)
        rounded_off = weight - quantized
        if float(rounded_off.norm()) > _OF_WEIGHT * float(weight.norm()):
            raise ConfigError(
                f"lora.start=loftq: the original weights of {name} were not found in {folder!r}: the weights there are "
                "not those that were quantized",
                hint="Use another start.",
            )
        u, s, vh = torch.linalg.svd(rounded_off, full_matrices=False)
        rank = min(len(s), layer.lora_A[adapter].weight.shape[0])
        root = (s[:rank] / float(layer.scaling[adapter])).sqrt()
        put_in(
            root[:, None] * vh[:rank], u[:, :rank] * root, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        )
