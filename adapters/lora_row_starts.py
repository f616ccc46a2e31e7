"""Initializations of LoRA's factors that are computed from the training rows.

EVA      A = the principal directions of a layer's inputs
CorDA    W C = U S V^T,  B A = U_r S_r V_r^T C^-1     C: covariance of the inputs
LoRA-GA  G = U S V^T,    A ~ V_1..r^T,  B ~ U_r+1..2r  G: gradient of W

The initial update of CorDA and LoRA-GA is subtracted from the base, so that the model's answers do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError

from .lora_starts import Start, put_in, take_off

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer
    from torch import nn

    from pefttools.methods import Pass

#: batches that are read
_BATCHES = 16
#: LoRA-GA's gamma: how small the factors are, relative to the size of the layer
_GAMMA = 16
#: share of the mean variance that is added to every direction, so that a covariance can be inverted
_DAMPING = 0.01


def start_from_rows(model: nn.Module, adapter: str, start: Start, passes: Iterable[Pass]) -> None:
    """Set A, or A and B, from a few batches. Padding is read too; every layer has the same rank.

    Args:
        model: wrapped by PEFT.
        adapter: PEFT's name of the adapter.
        start: one of those that are computed from rows.
        passes: over training batches.

    Raises:
        ConfigError: the rows have too few directions.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    found = _gradients(model, layers, passes) if start == "lora-ga" else _covariances(model, layers, passes)
    taken: dict[str, torch.Tensor] = {}
    for name, seen in found.items():
        layer: Any = layers[name]
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        with torch.no_grad():
            if start == "eva":
                a.copy_(_principal(seen, len(a), name))
                continue
            scale = float(layer.scaling[adapter])
            first, second = _corda(_weight(layer), seen, len(a), scale) if start == "corda" else _ga(seen, len(a), name)
            put_in(first, second, a, b)
        taken[f"{name}.lora_A.weight"], taken[f"{name}.lora_B.weight"] = a.detach(), b.detach()
    if start != "eva":
        for name in layers.keys() - found.keys():  # no row passed through: nothing is subtracted, it starts at zero
            a, b = layers[name].lora_A[adapter].weight, layers[name].lora_B[adapter].weight
            taken[f"{name}.lora_A.weight"], taken[f"{name}.lora_B.weight"] = torch.zeros_like(a), torch.zeros_like(b)
        take_off(model, adapter, taken)


def _principal(covariance: torch.Tensor, rank: int, name: str) -> torch.Tensor:
    import torch

    values, vectors = torch.linalg.eigh(covariance)
    if rank > len(values) or float(values[-rank]) <= 1e-12 * float(values[-1]):
        raise ConfigError(
            f"lora.start=eva: the inputs of {name} have fewer than {rank} directions", hint="Choose a smaller r."
        )
    principal: torch.Tensor = vectors[:, -rank:].flip(1).T
    return principal


def _corda(
    weight: torch.Tensor, covariance: torch.Tensor, rank: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The components that matter most to these inputs (the paper's instruction-previewed mode)."""
    import torch

    size = len(covariance)
    # Scaled to a mean of 1 on the diagonal: the product of A and B does not depend on this, but their balance does.
    covariance = covariance * (size / float(covariance.diagonal().sum()))
    covariance = covariance + _DAMPING * torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    u, s, vh = torch.linalg.svd(weight.double() @ covariance, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    inverse = torch.linalg.solve(covariance, vh[:rank].T).T  # the covariance is symmetric
    return root[:, None] * inverse, u[:, :rank] * root


def _ga(gradient: torch.Tensor, rank: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A from the first directions of the gradient, B from the next, both of the size that keeps training stable."""
    import torch

    if 2 * rank > min(gradient.shape):
        raise ConfigError(
            f"lora.start=lora-ga needs two directions for each of r={rank}, but {name} has {min(gradient.shape)}",
            hint="Choose a smaller r.",
        )
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    size = len(gradient) ** 0.25 / _GAMMA**0.5
    return size * vh[:rank], size * u[:, rank : 2 * rank]


def _weight(layer: LoraLayer) -> torch.Tensor:
    from pefttools.deltas.weights import dense_weight

    return dense_weight(layer.get_base_layer())


def _covariances(model: nn.Module, layers: dict[str, LoraLayer], passes: Iterable[Pass]) -> dict[str, torch.Tensor]:
    """Covariances of the layers' inputs, ``[inputs, inputs]``, not divided by their number."""
    import torch

    sums: dict[str, torch.Tensor] = {}

    def seen(name: str, x: torch.Tensor) -> None:
        x = x.detach().flatten(0, -2).double()
        sums[name] = sums.get(name, 0) + x.T @ x

    handles = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: seen(name, inputs[0]))
        for name, layer in layers.items()
    ]
    with _evaluating(model), torch.no_grad():
        try:
            for run in islice(passes, _BATCHES):
                run()
        finally:
            for handle in handles:
                handle.remove()
    return sums


def _gradients(model: nn.Module, layers: dict[str, LoraLayer], passes: Iterable[Pass]) -> dict[str, torch.Tensor]:
    """Gradients of the loss by layers' weights, ``[outputs, inputs]``, summed over batches; ``.grad`` is left alone."""
    import torch

    sums: dict[str, torch.Tensor] = {}
    seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda module, inputs, output, name=name: seen.append((name, inputs[0], output)))
        for name, layer in layers.items()
    ]
    with _evaluating(model):
        try:
            for run in islice(passes, _BATCHES):
                seen.clear()
                loss = run()
                found = torch.autograd.grad(loss, [output for _, _, output in seen], allow_unused=True)
                for (name, inputs, _), gradient in zip(seen, found, strict=True):
                    if gradient is not None:
                        x = inputs.detach().flatten(0, -2).float()
                        sums[name] = sums.get(name, 0) + gradient.flatten(0, -2).float().T @ x
        finally:
            for handle in handles:
                handle.remove()
    return sums


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
