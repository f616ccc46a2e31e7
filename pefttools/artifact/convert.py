"""What can be made from saved adapters without training: a plain PEFT LoRA, a weighted sum, norms per site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from pefttools.artifact.load import find_base
from pefttools.artifact.manifest import MANIFEST, Manifest, MethodEntry
from pefttools.artifact.reading import hold_weights
from pefttools.artifact.save import HEAD, finalize
from pefttools.bases import variants
from pefttools.bases.identity import unlike_fields
from pefttools.deltas import AdapterDeltas
from pefttools.deltas.addition import additive, weighted
from pefttools.deltas.export import PlainLora, as_lora, check_read_as_written, write_peft
from pefttools.deltas.merging_rules import RULES, Rule, combined
from pefttools.deltas.weights import read_state
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.files import check_replaceable, folder_atomic
from pefttools.methods import methods
from pefttools.recipe import stored_method
from pefttools.tasks import TaskModel

#: a file that every folder of a PEFT adapter has
_PEFT_KIND = "adapter_config.json"

#: the rule of a weighted sum
SUM = "sum"


@dataclass(frozen=True)
class Opened:
    """A verified artifact, with its base loaded in the format of the training, or in float32 if that is quantized.

    Attributes:
        folder: its path.
        manifest: its manifest.
        built: its base, made ready for its task.
        deltas: its trained state.
        head: state of the task head, if it is pefttools' own.
    """

    folder: Path
    manifest: Manifest
    built: TaskModel
    deltas: AdapterDeltas
    head: dict[str, torch.Tensor] | None


def open_artifact(folder: Path, base: str | None = None) -> Opened:
    """Verify an artifact and read its deltas.

    Raises:
        ArtifactError: damaged.
        BaseModelError: the base is a different one, or can't be found.
        ConfigError: its method has no deltas.
    """
    with hold_weights(folder) as held:
        manifest, entry = held.manifest, held.manifest.task
        method, config = stored_method(
            manifest.method.name, manifest.method.config, manifest.schema_version, str(folder)
        )
        task = entry.stored(str(folder))
        found = find_base(manifest, base)
        # Some changes are computed from the base's own weights: they are read in the training's format, or close to it.
        trained_on = variants.get(manifest.base.variant)
        kind = variants.get("float32") if trained_on.quantized else trained_on
        built = task.build(found, kind(), entry.labels, entry.head)
        deltas = method.deltas(held.folder, built.transformer, config, built.target)
        file = held.folder / HEAD
        return Opened(folder, manifest, built, deltas, read_state(file) if file.is_file() else None)


def site_norms(folder: Path, base: str | None = None) -> dict[str, dict[str, float]]:
    """Norm of an adapter's change at each site, by kind; see `AdapterDeltas.norms`."""
    return open_artifact(folder, base).deltas.norms()


def export_lora(
    folder: Path, output: Path, *, rank: int | None = None, base: str | None = None, overwrite: bool = False
) -> PlainLora:
    """Write an adapter as a plain PEFT LoRA, with the task head next to it if it is pefttools' own.

    Args:
        folder: the artifact.
        output: folder to write.
        rank: maximum rank of a site; None for an exact export, if the adapter is itself of low rank.
        base: path of the base model, if it has moved.
        overwrite: replace an existing adapter.

    Returns:
        What was written; its `error` tells how much was left out.

    Raises:
        ConfigError: an adapter that is not a change of linear layers' weights, or the output can't be replaced.
    """
    check_replaceable(output, _PEFT_KIND, overwrite)
    opened = open_artifact(folder, base)
    lora = as_lora(opened.deltas, opened.built.transformer, rank)
    if not lora.sites:
        raise ConfigError(
            f"the method {opened.manifest.method.name!r} adds no update to weights, and trains at most whole modules: "
            "there is no LoRA to export"
        )
    check_read_as_written(lora, opened.built.transformer)
    with folder_atomic(output, over=_PEFT_KIND) as temporary:
        write_peft(lora, temporary, base_id=opened.manifest.base.id, task_type=opened.built.target.peft_task_type)
        if opened.head is not None:
            save_file(opened.head, temporary / HEAD, metadata={"format": "pt"})
    return lora


def compose(
    folders: Sequence[Path],
    weights: Sequence[float],
    output: Path,
    *,
    rule: str = SUM,
    density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> PlainLora:
    """Save the weighted sum of adapters of one base, or their combination by another rule, as a new artifact.

    Args:
        folders: artifacts of the same base and task.
        weights: one for each.
        output: folder to write.
        rule: ``sum``, or one of `pefttools.deltas.merging_rules`.
        density: share of the entries of each change that a rule keeps.
        seed: for the entries that are dropped at random.
        rank: maximum rank of a site; None for the sum of theirs, which is exact for the weighted sum.
        base: path of the base model, if it has moved.
        overwrite: replace an existing artifact.

    Raises:
        ConfigError: adapters that don't belong together or can't be added, or the output can't be replaced.
    """
    check_replaceable(output, MANIFEST, overwrite)
    _check_weights(folders, weights)
    _check_rule(rule, density, rank)
    opened = [open_artifact(folder, base) for folder in folders]
    first = opened[0]
    for other in opened[1:]:
        _check_alike(first, other)
    entry = first.manifest.task
    calibration = entry.stored(str(first.folder)).joint_calibration([one.manifest.task.calibration for one in opened])
    parts = [_additive(one) for one in opened]
    if rule == SUM:
        joint = weighted(parts, weights)
    else:
        joint = combined(parts, weights, cast("Rule", rule), density or 0.0, seed)
    lora = as_lora(joint, first.built.transformer, rank)
    if not lora.sites:
        raise ConfigError("these adapters change only the task head: there is nothing to add up")
    draft = _draft(first.manifest, lora)
    draft = draft.model_copy(update={"task": draft.task.model_copy(update={"calibration": calibration})})
    by = {} if rule == SUM else {"rule": rule, "density": density, "seed": seed}
    made = {"composed_of": _sources(opened, weights), "relative_error": lora.error, **by}
    with folder_atomic(output, over=MANIFEST) as temporary:
        write_peft(lora, temporary, base_id=first.manifest.base.id, task_type=first.built.target.peft_task_type)
        if average := _averaged([one.head for one in opened if one.head is not None], weights):
            save_file(average, temporary / HEAD, metadata={"format": "pt"})
        finalize(temporary, draft, "float32", training=made)
    return lora


def _sources(opened: Sequence[Opened], weights: Sequence[float]) -> list[dict[str, Any]]:
    """What an artifact was composed of, as its manifest says it."""
    return [
        {"artifact": one.folder.resolve().name, "method": one.manifest.method.name, "weight": weight}
        | ({} if one.manifest.imported is None else {"imported": one.manifest.imported.origin()})
        for one, weight in zip(opened, weights, strict=True)
    ]


def _averaged(heads: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """Heads, each by the share of its weight; empty where there are none."""
    if not heads:
        return {}
    shares = [weight / sum(weights) for weight in weights]
    return {
        key: torch.stack([head[key] * share for head, share in zip(heads, shares, strict=True)]).sum(0)
        for key in heads[0]
    }


def _check_weights(folders: Sequence[Path], weights: Sequence[float]) -> None:
    """Refuse weights that no sum can be made of."""
    if len(folders) < 2 or len(folders) != len(weights):
        raise ConfigError(
            f"{len(folders)} artifacts and {len(weights)} weights: give two or more, and one weight for each"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ConfigError(f"weights must be numbers, not {', '.join(map(str, weights))}")
    if not sum(weights):
        raise ConfigError("the weights sum to zero", hint="Heads are averaged by their share of that sum.")


def _check_rule(rule: str, density: float | None, rank: int | None) -> None:
    if rule == SUM:
        if density is not None:
            raise ConfigError("density is for rules that keep a part of each change, not for the sum")
        return
    if rule not in RULES:
        raise UnknownNameError("rule", rule, (SUM, *RULES))
    if density is None or not 0 < density <= 1:
        raise ConfigError(
            f"the rule {rule!r} needs a density, the share of the entries to keep", hint="For example 0.5."
        )
    if rank is None:
        raise ConfigError(
            f"the result of the rule {rule!r} is not a low-rank update: a rank is needed",
            hint="Set the maximum rank, e.g. --rank 16; the relative error is reported.",
        )


def _additive(opened: Opened) -> AdapterDeltas:
    try:
        return additive(opened.deltas, opened.built.transformer)
    except ConfigError as error:
        raise ConfigError(f"{_named(opened)} can't be added up: {error.message}") from error


def _named(opened: Opened) -> str:
    return f"{opened.folder} ({opened.manifest.method.name})"


_ALIKE = "Only adapters with the same base, task and list of labels can be added."


def _check_alike(one: Opened, other: Opened) -> None:
    a, b = one.manifest, other.manifest
    for what, left, right in (
        ("bases", a.base.weights, b.base.weights),
        ("tasks", a.task.name, b.task.name),
        ("heads", a.task.head, b.task.head),
        ("labels", a.task.labels, b.task.labels),
        ("passages to read", a.passages(), b.passages()),
    ):
        if left != right:
            raise ConfigError(
                f"{one.folder} and {other.folder} have different {what}: {_short(left)} and {_short(right)}",
                hint=_ALIKE,
            )
    # Artifacts of schema 1.1 record neither; each has been compared with its own base as far as it does.
    if a.base.config is None or b.base.config is None:
        return
    unlike = unlike_fields(a.base.config, b.base.config) + ["tokenizer"] * (a.base.tokenizer != b.base.tokenizer)
    if unlike:
        raise ConfigError(
            f"{one.folder} and {other.folder} have base models with a different {', '.join(unlike)}", hint=_ALIKE
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _draft(manifest: Manifest, lora: PlainLora) -> Manifest:
    name = methods.default("plain-lora")  # the method that loads what `write_peft` writes
    origin = methods.origin(name)
    trained = sum(u.a.numel() + u.b.numel() for u in lora.sites.values())
    config = methods.get(name).config.model_validate(
        {"r": lora.rank, "alpha": float(lora.rank), "targets": sorted(lora.sites)}
    )
    entry = MethodEntry(
        name=name, config=config.model_dump(mode="json"), distribution=origin.distribution, version=origin.version
    )
    return manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": entry,
            "parameters": {**manifest.parameters, "trainable": trained + manifest.parameters["head"]},
            "metrics": {},
            "imported": None,
        }
    )
