"""Writing an artifact: completely, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pefttools.artifact.card import model_card
from pefttools.artifact.manifest import (
    MANIFEST,
    BaseEntry,
    Manifest,
    MethodEntry,
    TaskEntry,
    list_files,
    write_manifest,
)
from pefttools.errors import ConfigError
from pefttools.files import folder_atomic
from pefttools.methods import methods
from pefttools.tuned import TunedModel

HEAD = "head.safetensors"

#: share of its norm by which a tensor may change when it is stored as float16: bfloat16's rounding
_FLOAT16_ERROR = 2**-8

_PACKAGES = ("pefttools", "torch", "transformers", "peft", "bitsandbytes", "safetensors")


def save_artifact(model: TunedModel, folder: Path, *, storage: str = "float32", **notes: Any) -> Manifest:
    """Save a tuned model's adapter and head.

    Args:
        model: the model to save.
        folder: where to save it; an existing artifact is replaced in one step.
        storage: ``float32`` or ``float16``.
        notes: see `draft_manifest`.

    Raises:
        ConfigError: the folder can't be written, or float16 would lose too much of a tensor, see `to_float16`.
    """
    draft = draft_manifest(model, **notes)
    with folder_atomic(folder, over=MANIFEST) as temporary:
        write_weights(model, temporary)
        if storage == "float16" and (lost := to_float16(temporary)):
            raise ConfigError(lost, hint="Use storage='float32'.")
        return finalize(temporary, draft, storage)


def write_weights(model: TunedModel, folder: Path) -> None:
    """The method's own files and the head, in float32."""
    spec = model.spec
    spec.method.save(model.transformer, folder, spec.base.id)
    if model.head is not None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
        save_file(state, folder / HEAD, metadata={"format": "pt"})


def draft_manifest(
    model: TunedModel,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, dict[str, float]] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of a model, except for the files.

    Args:
        model: the model that it describes.
        training: summary of the training.
        metrics: split -> metrics.
        columns: role -> column name of the training data.
    """
    spec = model.spec
    origin = methods.origin(spec.method.name)
    count = model.count()
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        method=MethodEntry(
            name=spec.method.name,
            config=spec.method.describe(spec.config),
            distribution=origin.distribution,
            version=origin.version,
        ),
        task=TaskEntry(
            name=spec.task.name,
            config=spec.task.options.model_dump(mode="json"),
            labels=list(spec.labels),
            head=spec.head_kind,
            columns=dict(columns or spec.columns),
            calibration=spec.task.calibration,
        ),
        base=BaseEntry(
            id=spec.base.id,
            revision=spec.base.revision,
            model_type=spec.base.model_type,
            structure=spec.base.structure,
            weights=spec.base.weights,
            variant=spec.variant.name,
            size=spec.base.size,
            config=spec.base.config,
            tokenizer=spec.base.tokenizer_digest,
        ),
        storage="float32",
        precision="float32" if model.autocast is None else str(model.autocast).removeprefix("torch."),
        parameters={"total": count.total, "trainable": count.trainable, "head": count.head},
        files={},
        packages=package_versions(_PACKAGES),
        training=dict(training or {}),
        metrics=dict(metrics or {}),
        knowledge=spec.knowledge,
    )


#: the description that every built-in method writes of its files, in PEFT's form if they are PEFT's
ADAPTER_CONFIG = "adapter_config.json"


def finalize(folder: Path, draft: Manifest, storage: str, **changes: Any) -> Manifest:
    """Add model card and manifest to the weights in `folder`."""
    manifest = draft.model_copy(update={"storage": storage, **changes})
    written = folder / ADAPTER_CONFIG
    adapter = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    (folder / "README.md").write_text(model_card(manifest, adapter), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": list_files(folder)})
    write_manifest(folder, manifest)
    return manifest


def to_float16(folder: Path) -> str | None:
    """Store all tensors as float16; if that would lose too much, nothing is changed.

    A tensor may change, relative to its norm, by as much as rounding to bfloat16 would change it. Values below 6e-5 are
    rounded to steps of 6e-8 in float16, so that a tensor of small values loses more, and may become all zeros.

    Returns:
        None, or a message about what would be lost.
    """
    converted: dict[Path, tuple[dict[str, torch.Tensor], dict[str, str] | None]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            notes = opened.metadata()
        state = load_file(file)
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        for name, tensor in state.items():
            if tensor.is_floating_point() and (lost := _lost(tensor, half[name])):
                return f"{file.name}, {name}: {lost}"
        converted[file] = (half, notes)
    for file, (state, notes) in converted.items():
        save_file(state, file, metadata=notes)
    return None


def _lost(tensor: torch.Tensor, half: torch.Tensor) -> str | None:
    if not torch.isfinite(half).all():
        return "a weight is too large for float16"
    exact, rounded = tensor.double(), half.double()
    if torch.linalg.vector_norm(exact - rounded) <= _FLOAT16_ERROR * torch.linalg.vector_norm(exact):
        return None
    zeros = int(torch.count_nonzero(tensor) - torch.count_nonzero(half))
    small = int(torch.count_nonzero((exact != 0) & (exact.abs() < torch.finfo(torch.float16).tiny)))
    if zeros:
        return f"{zeros:,} of {tensor.numel():,} values are so small that float16 makes them 0"
    return f"{small:,} of {tensor.numel():,} values are so small that float16 keeps too few digits of them"


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of distributions; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
