"""The contract of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import pefttools
from pefttools.bases import variants
from pefttools.building import check_combination
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import Method
from pefttools.recipe import choose_method, choose_task
from pefttools.tasks import tasks
from pefttools.testing.alone import check_dequantized, check_loaded, check_merged, check_recomputed
from pefttools.testing.mixed import check_mixed
from pefttools.testing.rows import encoded_rows
from pefttools.testing.steps import train_a_little
from pefttools.testing.subject import Choice, MethodChoice, Outcome, Rows, Subject, answers_of, logits_of
from pefttools.testing.writing import check_written
from pefttools.tuned import TunedModel

Check = Callable[[Subject], Outcome]
#: what every method must satisfy on every base and variant, or refuse with an error that names it
PROMISES: dict[str, Check] = {
    "loaded": check_loaded,
    "merged": check_merged,
    "mixed": check_mixed,
    "written": check_written,
    "dequantized": check_dequantized,
    "recomputed": check_recomputed,
}


def check_method(
    method: MethodChoice,
    *,
    base: str,
    folder: Path,
    task: Choice | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    labels: Sequence[str] = ("a", "b", "c"),
    variant: str | None = None,
) -> TunedModel | None:
    """Check a method against its contract, on one base and for one task.

    It declares itself; trains nothing but its own parameters and the task's head, with an effect; is saved without
    pickles and loaded with equal logits. It is merged with equal logits, answers in a pool as it does alone, is trained
    with equal gradients under gradient checkpointing, and generates the same with padding; or each of these is refused
    with an error that names it.

    Args:
        method: its name, a mapping with name and options, or a list of these.
        base: path of a base model that it can be used on; a tiny one is enough.
        folder: an empty folder, for artifacts.
        task: task that it is trained for; None for the default.
        rows: rows by column role, of different lengths; None for short texts.
        labels: label names, if the task has labels.
        variant: variant of the base; None for the default.

    Returns:
        The trained model, for checks of your own; None if the method refuses the combination before loading.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: an error that users would see, e.g. that the method does not fit the base.
    """
    chosen_task = choose_task(dict(task) if isinstance(task, Mapping) else task or tasks.default())
    names = labels if chosen_task.has_labels else ()
    plugin, config = choose_method(dict(method) if isinstance(method, Mapping) else method)
    check_declarations(plugin)
    kind = variants.get(variant or variants.default())
    try:
        check_combination(plugin, config, kind(), chosen_task)
    except ConfigError as refusal:
        _check_refused(method, base, task, names, variant, refusal)
        return None
    subject = trained_subject(method, base=base, folder=folder, task=task, rows=rows, labels=names, variant=variant)
    for check in PROMISES.values():
        check(subject)
    return subject.model


def trained_subject(
    method: MethodChoice,
    *,
    base: str,
    folder: Path,
    task: Choice | None = None,
    rows: Rows = None,
    labels: Sequence[str] = (),
    variant: str | None = None,
    answers: Callable[[Path, Rows], torch.Tensor] = answers_of,
) -> Subject:
    """Put a method on a base, train it for a few steps and save it. Parameters as in `check_method`.

    Args:
        method: the method.
        base: the base.
        folder: an empty folder.
        task: task that it is trained for.
        rows: rows to train on.
        labels: label names; empty if the task has no labels.
        variant: variant of the base.
        answers: loads an artifact and answers rows.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: the method refuses the combination.
    """
    model = pefttools.wrap(base, method, task=task, labels=labels, variant=variant, precision="float32")
    try:
        examples = encoded_rows(model, rows)
        before = logits_of(model, examples)
        train_a_little(model, examples)
        trained = logits_of(model, examples)
        if model.capabilities.trains != "nothing":
            assert not torch.allclose(before, trained, atol=1e-3), "training has no effect"
        artifact = folder / "artifact"
        pefttools.save(model, artifact)
    except PeftToolsError as error:
        raise AssertionError(f"it was put on the base, but then failed with: {error}") from error
    return Subject(
        model, base, method, task or tasks.default(), folder, artifact, rows, examples, before, trained, answers
    )


def check_declarations(method: Method[Any]) -> None:
    """What a method declares about itself."""
    assert method.name and method.summary and not method.summary.endswith("."), "a name and a summary, no full stop"
    can = method.capabilities
    assert method.learning_rate > 0 or can.trains == "nothing", "it needs a learning rate for recipes that give none"
    overridden = type(method).deltas is not Method.deltas
    assert overridden or not can.deltas, "it declares deltas, but has no deltas()"
    assert type(method).merge is not Method.merge or not can.mergeable, (
        "it declares an effect on weights, but has no merge()"
    )
    if can.effect == "virtual_tokens":
        assert type(method).virtual_tokens is not Method.virtual_tokens, "the planner must know how many tokens it adds"


def _check_refused(
    method: MethodChoice,
    base: str,
    task: Choice | None,
    labels: Sequence[str],
    variant: str | None,
    refusal: ConfigError,
) -> None:
    try:
        pefttools.wrap(base, method, task=task, labels=labels, variant=variant)
    except ConfigError as error:
        assert str(error) == str(refusal), f"refused for another reason: {error}"
    else:
        raise AssertionError("the method refuses the combination, but was wrapped nevertheless")
