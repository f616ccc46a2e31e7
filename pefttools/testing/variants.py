"""The contract of a base variant."""

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
    """Hold a base variant against its contract.

    It declares itself; is loaded frozen, as large as it is planned; gives a row the same bits whatever stands beside
    it; keeps its weights when it is run in another precision; lets an adapter be trained, saved, loaded and pooled; and
    is refused by methods that train the base's own weights, where it is quantized.

    Args:
        variant: its name.
        base: of a model; a tiny one will do.
        folder: an empty one, for artifacts.
        task: that an adapter is trained for; None: the default.
        method: that it is trained by; None: the default.

    Returns:
        What was trained, for checks of your own.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: something that a user would be told.
    """
    kind = variants.get(variant)
    assert kind.name == variant, f"it is registered as {variant!r} and calls itself {kind.name!r}"
    assert kind.summary and not kind.summary.endswith("."), "a summary, without a full stop"
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
    assert trained is not None, f"the method {method!r} does not go with it: name one that does"
    return trained


def _check_weights(model: TunedModel, base: str, labels: list[str]) -> None:
    """Frozen, but for the adapter; and as large as the variant's stand-in, which plans go by."""
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
    assert abs(loaded - wanted) <= 0.02 * loaded, f"{loaded} bytes are loaded where {wanted} are planned"


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
    """Methods that train the base's own weights are refused where these are quantized."""
    for name in methods:
        if methods.get(name).capabilities.trains != "base" or not variants.get(variant).quantized:
            continue
        try:
            pefttools.wrap(base, name, task=task, labels=labels, variant=variant)
        except PeftToolsError as error:
            assert variant in str(error), f"refused, and not by name: {error}"
        else:
            raise AssertionError(f"the method {name!r} trains weights that are quantized")
