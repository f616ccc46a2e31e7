"""What a single adapter must give in every way in which it can be run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers.pytorch_utils import Conv1D

import pefttools
from pefttools.bases import locate_base
from pefttools.bases.unquantized import is_packed
from pefttools.building import build
from pefttools.deltas.weights import dense_weight
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.sites import is_linear, parametrized
from pefttools.tasks.task import Batch, Example
from pefttools.testing.subject import (
    WORKS,
    DifferenceError,
    Outcome,
    Subject,
    as_near,
    assert_alike,
    logits_of,
    tolerance,
)
from pefttools.tuned import TunedModel

#: share of an adapter's effect that a quantized base may differ by from its dequantized weights
_OF_BITS = 0.1
_PICKLES = {".bin", ".pkl", ".pt", ".pth"}


def check_loaded(subject: Subject) -> Outcome:
    """A saved adapter gives the trained one's answers, and contains no pickle."""
    pickles = [file.name for file in subject.artifact.iterdir() if file.suffix in _PICKLES]
    assert not pickles, f"a pickle was written: {', '.join(pickles)}"
    assert_alike("a loaded artifact", subject.answers(subject.artifact, subject.rows), subject.trained, subject.model)
    return WORKS


def check_merged(subject: Subject) -> Outcome:
    """`pefttools.merge` compares the logits itself, and refuses to write a model with different ones."""
    merged = subject.folder / "merged"
    try:
        pefttools.merge(subject.artifact, merged)
    except PeftToolsError as error:
        assert "can't be merged" in str(error), f"refused, but the error does not name it: {error}"
        assert not merged.exists(), "something was written nevertheless"
        return Outcome("refused", str(error))
    assert (merged / "config.json").is_file()
    return WORKS


def check_dequantized(subject: Subject) -> Outcome:
    """On a quantized base it does the same as on the dequantized weights."""
    if not subject.model.spec.variant.quantized:
        return Outcome("not tried", "the base is not quantized")
    plain = pefttools.load(subject.artifact, variant="float32")
    plain.autocast = None
    with torch.no_grad():
        for name, module in subject.model.transformer.named_modules():
            for own in parametrized(module):  # experts, fused in one weight
                plain.transformer.get_submodule(name).get_parameter(own).copy_(getattr(module, own))
            if hasattr(module, "base_layer") or not is_linear(module) or not is_packed(module.weight):
                continue
            weight = dense_weight(module)
            layer: Any = plain.transformer.get_submodule(name)
            layer.weight.copy_(weight.T if isinstance(layer, Conv1D) else weight)
    # Some formats round activations too, by about as much as this. Mistaking packed bits for values is far beyond it.
    limit = _OF_BITS * max(1.0, float((subject.trained - subject.before).abs().max()))
    off = float((logits_of(plain, subject.examples) - subject.trained).abs().max())
    if not off <= limit:
        raise DifferenceError(f"on the base's dequantized weights the adapter gives different logits: off by {off:.2e}")
    return WORKS


def check_recomputed(subject: Subject) -> Outcome:
    """Gradients are the same if activations are recomputed in the backward pass."""
    model = subject.model
    spec = model.spec
    if spec.method.capabilities.trains == "nothing":
        return Outcome("not tried", "it trains nothing")
    if spec.variant.quantized:
        return Outcome("not tried", "gradients are compared on bases that are not quantized")
    found = []
    modes: tuple[bool | Literal["selective"], ...] = (False, True, "selective")
    for checkpointing in modes:
        try:
            again = rebuilt(subject, checkpointing)
        except ConfigError as error:
            can = spec.method.capabilities.gradient_checkpointing
            assert not can or "has no layers" in str(error), error
            return Outcome("refused", str(error))
        found.append(gradients_of(again, subject.examples))
    for checked in found[1:]:
        assert_same_gradients("gradient checkpointing", checked, found[0], model)
    return WORKS


def rebuilt(subject: Subject, checkpointing: bool | Literal["selective"] = False) -> TunedModel:
    """The method on a fresh base, untrained.

    Raises:
        ConfigError: it can't be combined with gradient checkpointing.
    """
    spec = subject.model.spec
    return build(
        locate_base(subject.base), spec.variant.name, spec.method, spec.config, spec.task, spec.labels,
        precision="float32", seed=0, gradient_checkpointing=checkpointing, device=subject.model.device,
    )  # fmt: skip


def gradients_of(model: TunedModel, examples: Sequence[Example], *, dropout: bool = True) -> dict[str, torch.Tensor]:
    """Gradients of one batch by parameter name; zeros of a fresh adapter, which hide others, are replaced."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.any():
            generator = torch.Generator(parameter.device).manual_seed(len(name))
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    return gradients_on(model, model.spec.task.collate(examples, model.processor), dropout=dropout)


def gradients_on(model: TunedModel, batch: Batch, *, dropout: bool = True) -> dict[str, torch.Tensor]:
    """The same for a batch that is already collated."""
    given = dict(batch)
    labels = given.pop("labels")
    model.train(dropout)
    model.zero_grad()
    torch.manual_seed(0)  # dropout must be the same when a layer is recomputed
    model(**given, targets=labels).backward()
    found = {name: p.grad.detach().float() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(
    what: str,
    found: dict[str, torch.Tensor],
    wanted: dict[str, torch.Tensor],
    model: TunedModel,
    exact: Callable[[], dict[str, torch.Tensor]] | None = None,
) -> None:
    """Gradients are of the same parameters and equal, up to summation order and rounding of the model's number format.

    Args:
        what: what changes them, for the message.
        found: gradients by parameter name.
        wanted: what they are to be.
        model: the model.
        exact: gives them in float32; as in `assert_alike`.

    Raises:
        DifferenceError: they are not.
    """
    if found.keys() != wanted.keys():
        raise DifferenceError(f"{what} changes what gets a gradient: {sorted(found.keys() ^ wanted.keys())[:3]}")
    # If sums cancel, what is left is rounding error, relative to the terms.
    floor = max([1e-2, *(0.1 * float(gradient.abs().max()) for gradient in wanted.values())])
    once = None if exact is None else functools.cache(exact)
    for name, gradient in wanted.items():
        off, largest = float((found[name] - gradient).abs().max()), float(gradient.abs().max())
        limit = tolerance(model) * max(floor, largest)
        if not off <= limit and not (once is not None and as_near(found[name], gradient, once()[name], limit)):
            raise DifferenceError(f"{what} changes the gradient of {name}: off by {off:.2e} of {largest:.2e}")
