"""Initializations of LoRA's factors.

zero         A random, B zero                                     https://arxiv.org/abs/2106.09685
gaussian     A from a normal distribution, B zero                 as in diffusion models
orthogonal   A and B orthogonal to each other, both not zero      https://hf.co/blog/datta0/orthogonal-lora
olora        the QR decomposition of W, subtracted from the base  https://arxiv.org/abs/2406.01775
pissa        W's principal components, subtracted from the base   https://arxiv.org/abs/2404.02948
eva          A the principal directions of a layer's inputs       https://arxiv.org/abs/2410.07170
corda        W's principal components weighted by the inputs,     https://arxiv.org/abs/2406.05223
             subtracted from the base
lora-ga      the principal directions of W's gradient,            https://arxiv.org/abs/2407.05000
             subtracted from the base
loftq        the error of quantizing W to 4 bits                  https://arxiv.org/abs/2310.08659
mica         B the directions of W's smallest components, frozen  https://arxiv.org/abs/2604.01694

EVA, CorDA and LoRA-GA are computed from the training rows: `lora_row_starts`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pefttools.errors import ConfigError
from pefttools.files import canonical_json

from .peft_bridge import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import nn

Start = Literal["zero", "gaussian", "orthogonal", "olora", "pissa", "eva", "corda", "lora-ga", "loftq", "mica"]
#: subtracted from the base's weights, so that the factors are more than a change of the base
RESIDUAL: tuple[Start, ...] = ("olora", "pissa", "corda", "lora-ga")
#: computed from the training rows
FROM_DATA: tuple[Start, ...] = ("eva", "corda", "lora-ga")
#: not to be decayed: their initial factors are a part of the base
OF_BASE: tuple[Start, ...] = (*RESIDUAL, "loftq")
#: variants whose quantization error is worth compensating for
OF_FOUR_BITS = ("nf4", "hqq")
#: attribute of a wrapped model with the factors that were subtracted from the base
_INITIAL = "initial_factors"
_A, _B = ".lora_A.weight", ".lora_B.weight"


def of_peft(start: Start) -> Any:
    """PEFT's ``init_lora_weights``. Those computed from rows start as zero, and are set by `start_from_rows`."""
    return True if start in ("zero", "loftq", "mica", *FROM_DATA) else start


def freeze_minor_directions(model: nn.Module, adapter: str) -> None:
    """MiCA: B is the directions of the weight's smallest components, and frozen; A is zero, and trained."""
    import torch
    from peft.tuners.lora import LoraLayer

    from pefttools.deltas.weights import dense_weight

    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        b.requires_grad_(False)
        if a.is_meta:
            continue
        weight = dense_weight(layer.get_base_layer()).float()
        if len(a) > min(weight.shape):
            raise ConfigError(
                f"lora.start=mica: {name} has {min(weight.shape)} components, but r is {len(a)}",
                hint="Choose a smaller r.",
            )
        with torch.no_grad():
            a.zero_()
            b.copy_(torch.linalg.svd(weight, full_matrices=False).U[:, -len(a) :])


def free_gradients(model: nn.Module) -> None:
    """LoRA-FA: freeze A, and make B's gradient the one whose update comes nearest to that of the full weight.

    ``g_B <- (r / alpha)^2 g_B (A A^T)^-1``
    """
    import torch
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for name, module in layer.lora_A.items():
            a: torch.Tensor = module.weight
            a.requires_grad_(False)
            if a.is_meta:
                continue
            inner = torch.linalg.inv((a @ a.T).double() + 1e-8 * torch.eye(len(a), device=a.device))
            nearest = (inner / float(layer.scaling[name]) ** 2).to(a.dtype)
            weight: Any = layer.lora_B[name].weight
            # An initialization computed from data follows the random one.
            for handle in weight.__dict__.pop("nearest", []):
                handle.remove()
            weight.nearest = [weight.register_hook(partial(torch.matmul, other=nearest))]


def remember_start(model: nn.Module, adapter: str) -> None:
    """Keep the factors that were subtracted from the base, to express the result as an update of the original base."""
    initial = {key: tensor.detach().cpu().clone() for key, tensor in _factors(model, adapter).items()}
    object.__setattr__(model, _INITIAL, initial)


def taken_off(model: nn.Module) -> dict[str, torch.Tensor]:
    """The factors that were subtracted from the base, by PEFT's names; empty if there are none."""
    return dict(getattr(model, _INITIAL, {}))


def put_in(first: torch.Tensor, second: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Put factors into A and B; if they have fewer directions than the rank, the others start as in plain LoRA."""
    import torch

    with torch.no_grad():
        a[: len(first)] = first.to(a)
        b.zero_()
        b[:, : len(first)] = second.to(b)


def take_off(model: nn.Module, adapter: str, factors: dict[str, torch.Tensor]) -> None:
    """Subtract factors from the base's weights, and remember them as the start of the training.

    Args:
        model: wrapped by PEFT; its base is stored in floating point.
        adapter: PEFT's name of the adapter.
        factors: as returned by `taken_off`.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer) and name + _A in factors:
                base: Any = layer.get_base_layer()
                a, b = factors[name + _A].to(base.weight), factors[name + _B].to(base.weight)
                change = layer.scaling[adapter] * b @ a
                base.weight.sub_(change.T if isinstance(base, Conv1D) else change)
    object.__setattr__(model, _INITIAL, {key: tensor.detach().cpu().clone() for key, tensor in factors.items()})


def say_as_update(model: nn.Module, folder: Path) -> None:
    """Turn the saved files of such an adapter into a plain LoRA of rank 2r on the original base.

    ``B A - B0 A0 = [B, -B0] [A; A0]``
    """
    import torch
    from safetensors.torch import load_file, save_file

    initial = getattr(model, _INITIAL, None)
    if initial is None:
        return
    state = load_file(folder / WEIGHTS)
    for key, start in initial.items():
        if key.endswith(_A):
            state[key] = torch.cat([state[key], start], dim=0)
        else:
            state[key] = torch.cat([state[key], -start], dim=1)
    save_file(
        {key: tensor.contiguous() for key, tensor in state.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )

    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    # The scale of the update must stay alpha / r (or alpha / sqrt(r)) with the rank that was trained.
    config["lora_alpha"] *= 2**0.5 if config["use_rslora"] else 2
    config["r"] *= 2
    config["init_lora_weights"] = True
    path.write_text(canonical_json(config), encoding="utf-8")


def _factors(model: nn.Module, adapter: str) -> dict[str, torch.Tensor]:
    import peft

    state: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
        model, adapter_name=adapter, save_embedding_layers=False
    )
    return {key: tensor for key, tensor in state.items() if key.endswith((_A, _B))}
