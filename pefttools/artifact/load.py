"""Loading an artifact: everything is verified before anything is used."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pefttools.artifact.manifest import Manifest
from pefttools.artifact.reading import hold_weights
from pefttools.artifact.save import HEAD
from pefttools.artifact.signing import Signers
from pefttools.bases import Base, locate_base, variants
from pefttools.bases.fingerprint import forget_digests
from pefttools.bases.identity import unlike_fields
from pefttools.building import assemble, check_combination
from pefttools.errors import ArtifactError, BaseModelError, PeftToolsError, is_out_of_memory
from pefttools.methods import Method, MethodConfig
from pefttools.recipe import stored_method
from pefttools.tasks import TaskModel
from pefttools.tuned import TunedModel


def load_artifact(
    folder: Path,
    *,
    base: str | None = None,
    variant: str | None = None,
    device: torch.device | None = None,
    signers: Signers | None = None,
) -> TunedModel:
    """Load a saved adapter on its base.

    Args:
        folder: the artifact.
        base: path of the base model; None for the one in the manifest.
        variant: number format of the base; None for the one that the adapter was trained on.
        device: device of the model; None for the accelerator, if there is one.
        signers: whose signature the artifact must have; None if none is required.

    Raises:
        ArtifactError: the artifact is damaged, too new, or not signed.
        BaseModelError: the base is a different one, or can't be found.
    """
    with hold_weights(folder, signers) as held:
        found = find_base(held.manifest, base)
        return load_verified(held.folder, held.manifest, found, variant=variant, device=device)


def load_verified(
    folder: Path,
    manifest: Manifest,
    base: Base,
    *,
    variant: str | None = None,
    device: torch.device | None = None,
) -> TunedModel:
    """Load an artifact whose files and base have been verified."""
    from pefttools.compute.precision import default_device, precision_there

    method, config = stored_method(
        manifest.method.name, manifest.method.config, manifest.schema_version, "the manifest's method"
    )
    task = manifest.task.stored("the manifest's task")
    device = device or default_device()
    kind = variants.get(variant or manifest.base.variant)(device)
    check_combination(method, config, kind, task)
    built = task.build(base, kind, manifest.task.labels, manifest.task.head)
    built = replace(built, transformer=built.transformer.to(device))
    wrapped = load_method(method, config, built, folder, base.id)
    for parameter in wrapped.parameters():
        parameter.requires_grad_(False)
    if built.head is not None:
        load_head(built.head, folder / HEAD)
    entry = manifest.task
    precision = precision_there(manifest.precision, device)
    model = assemble(built, wrapped, base, kind, method, config, task, entry.labels, precision, device, entry.columns)
    model.spec = replace(model.spec, knowledge=manifest.knowledge)
    model.requires_grad_(False)
    return model.eval()


def load_method(method: Method[Any], config: MethodConfig, built: TaskModel, folder: Path, base: str) -> nn.Module:
    """Let a method load its weights into a base that is ready for them.

    Raises:
        ArtifactError: they don't fit, or the method's library can't make sense of them.
    """
    try:
        return method.load(built.transformer, folder, config, built.target)
    # Anything: methods and their libraries expect files that they wrote themselves.
    except Exception as error:
        if isinstance(error, PeftToolsError) or is_out_of_memory(error):
            raise
        summary = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ArtifactError(
            f"{folder}: the stored state of the method {method.name!r} does not fit the base {base!r}: "
            f"{summary or type(error).__name__}",
            hint="Train it again, or load it with the version of pefttools that saved it.",
        ) from error


def load_head(head: nn.Module, file: Path) -> None:
    """Load a task head's weights.

    Raises:
        ArtifactError: they are missing or don't fit.
    """
    try:
        head.load_state_dict(load_file(file))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{file} does not fit the task head: {' '.join(str(error).split())}") from error


def find_base(manifest: Manifest, source: str | None = None, *, rehash: bool = False) -> Base:
    """The base that a manifest names, or the one at `source`, if it is the same.

    Raises:
        BaseModelError: not found, or a different one; the message names both.
    """
    entry = manifest.base
    try:
        found = locate_base(source or entry.id, None if source else entry.revision)
    except BaseModelError as error:
        if source is None:
            raise BaseModelError(
                error.message, hint="Give the path of the base, if it has moved: --base PATH (base=PATH)."
            ) from error
        raise
    if rehash:
        forget_digests(found.folder)
    check_base(manifest, found)
    return found


def check_base(manifest: Manifest, found: Base) -> None:
    """Refuse a base that the artifact does not belong to.

    Raises:
        BaseModelError: its structure, weights, configuration or tokenizer differ.
    """
    entry = manifest.base
    if found.structure != entry.structure:
        raise BaseModelError(
            f"the artifact belongs to the base {entry.id!r} ({entry.model_type}, structure {entry.structure[:12]}), "
            f"but {found.id!r} is {found.model_type} with structure {found.structure[:12]}",
            hint="Give the base that the adapter was trained on.",
        )
    if found.weights != entry.weights:
        raise BaseModelError(
            f"the artifact belongs to the base {entry.id!r} with weights {entry.weights[:12]}, but {found.id!r} has "
            f"the same structure with different weights, {found.weights[:12]}",
            hint="Give the base that the adapter was trained on, at the same revision.",
        )
    if entry.config is None or entry.tokenizer is None:
        warnings.warn(
            f"an artifact of schema {manifest.schema_version} does not record the configuration and tokenizer of its "
            f"base {entry.id!r}: they are not compared. Save it again to record them.",
            stacklevel=2,
        )
        return
    if names := unlike_fields(entry.config, found.config):
        raise BaseModelError(
            f"the artifact belongs to the base {entry.id!r}, but {found.id!r} has the same weights with a different "
            f"configuration: {', '.join(names)}",
            hint="Give the base that the adapter was trained on, unchanged.",
        )
    if found.tokenizer_digest != entry.tokenizer:
        raise BaseModelError(
            f"the artifact belongs to the base {entry.id!r}, but {found.id!r} has the same weights with a different "
            f"tokenizer ({found.tokenizer_digest[:12]} instead of {entry.tokenizer[:12]})",
            hint="Give the base that the adapter was trained on, with its tokenizer.",
        )
