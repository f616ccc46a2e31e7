"""The contract of a variant of the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pefttools
from pefttools.bases import variants
from pefttools.bases.skeleton import skeleton
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import methods
from pefttools.planning.counter import weights_of
from pefttools.recipe import choose_task
from pefttools.tasks import tasks
from pefttools.testing.methods import check_method
from pefttools.testing.rows import encoded_rows
from pefttools.testing.subject import logits_of, same_numbers
from pefttools.tuned import TunedModel

Choice = str | Mapping[str, Any]


def check_variant(
    variant: str, *, base: str, folder: Path, task: Choice | None = None, method: Choice | None = None
) -> TunedModel:
    """Check a variant of the base against its contract.

    It declares itself; is loaded frozen, and as large as planned; gives a row bit-identical results whatever its
    neighbours; keeps its weights when it is run in another precision; lets an adapter be trained, saved, loaded and
    pooled; and, if it is quantized, is refused by methods that train the base's own weights.

    Args:
        variant: its name.
        base: path of a base model; a tiny one is enough.
        folder: an empty folder, for artifacts.
        task: task that an adapter is trained for; None for the default.
        method: method that it is trained with; None for the default.

    Returns:
        The trained model, for checks of your own.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: an error that users would see.
    """
    kind = variants.get(variant)
    assert kind.name == variant, f"it is registered as {variant!r} but calls itself {kind.name!r}"
    assert kind.summary and not kind.summary.endswith("."), "it needs a summary, without a full stop"
    assert set(kind.smaller) <= set(variants.names()), f"`smaller` names unknown variants: {kind.smaller}"
    chosen = choose_task(dict(task) if isinstance(task, Mapping) else task or tasks.default())
    labels = ["a", "b", "c"] if chosen.has_labels else []
    method = method or methods.default()
    model = pefttools.wrap(base, method, task=task, labels=labels, variant=variant, precision="float32")
    _check_weights(model, base, labels)
    _check_neighbours(model)
    _check_drift(model)
    _check_base_training(base, task, labels, variant)
    trained = check_method(method, base=base, folder=folder, task=task, variant=variant)
    assert trained is not None, f"the method {method!r} can't be combined with it: name one that can"
    return trained


def _check_weights(model: TunedModel, base: str, labels: list[str]) -> None:
    """Frozen, except for the adapter; and as large as the variant's stand-in, which plans use."""
    spec = model.spec
    kind = spec.variant
    built = spec.task.build(spec.base, type(kind)(kind.device), labels)
    assert not [name for name, p in built.transformer.named_parameters() if p.requires_grad], "the base is not frozen"
    try:
        with torch.device("meta"):
            planned = spec.task.build(skeleton(base), type(kind)(), labels).transformer
    except ConfigError as error:
        assert "can't be planned" in str(error), error
        return
    loaded, wanted = _bytes(built.transformer), _bytes(planned)
    assert abs(loaded - wanted) <= 0.02 * loaded, f"{loaded} bytes are loaded, but {wanted} were planned"


def _bytes(model: nn.Module) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in weights_of(model))


def _check_neighbours(model: TunedModel) -> None:
    examples = encoded_rows(model, None)
    batch = model.spec.task.collate(examples, model.processor)
    batch.pop("labels", None)
    first = {name: value.clone() for name, value in batch.items()}
    other = {name: torch.cat([value[:1], value[1:].flip(0)]) for name, value in batch.items()}
    one, two = model.run_batch(first)[0], model.run_batch(other)[0]
    assert torch.equal(one, two), "a row's neighbours change its logits"


def _check_drift(model: TunedModel) -> None:
    """Running in another precision leaves the weights as they are."""
    examples = encoded_rows(model, None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for dtype in (torch.bfloat16, model.autocast):
        model.autocast = dtype
        logits_of(model, examples)
    for name, tensor in model.state_dict().items():
        assert same_numbers(tensor, before[name]), f"running the model has changed its {name}"


def _check_base_training(base: str, task: Choice | None, labels: list[str], variant: str) -> None:
    """Methods that train the base's own weights are refused if these are quantized."""
    for name in methods:
        if methods.get(name).capabilities.trains != "base" or not variants.get(variant).quantized:
            continue
        try:
            pefttools.wrap(base, name, task=task, labels=labels, variant=variant)
        except PeftToolsError as error:
            assert variant in str(error), f"refused, but the error does not name the variant: {error}"
        else:
            raise AssertionError(f"the method {name!r} trains weights that are quantized")
