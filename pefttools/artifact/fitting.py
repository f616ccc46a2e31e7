"""Whether an artifact fits a base, determined without the base's weights."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import torch

from pefttools.artifact.load import load_head, load_method
from pefttools.artifact.manifest import Manifest
from pefttools.artifact.save import HEAD
from pefttools.bases import Base, variants
from pefttools.bases.fingerprint import safetensors_header
from pefttools.bases.skeleton import Skeleton
from pefttools.recipe import stored_method


class Fitting:
    """Checks whether artifacts fit a base: their methods load them on a base without weights, as on the real one.

    What fitted once is remembered: adapters of many tenants differ only in their values.

    Args:
        base: the base.
    """

    def __init__(self, base: Base) -> None:
        self._outline = Skeleton(base.id, base.folder, base.revision)
        self._known: set[str] = set()

    def check(self, folder: Path, manifest: Manifest) -> None:
        """Refuse what `pefttools.load` would refuse.

        Raises:
            ArtifactError: tensors that are missing, unknown or of another shape.
            ConfigError: a method or task that can't be loaded.
        """
        key = self._key(folder, manifest)
        if key in self._known:
            return
        method, config = stored_method(
            manifest.method.name, manifest.method.config, manifest.schema_version, "the manifest's method"
        )
        if method.needs_weights:  # this will show when it is loaded
            return
        entry = manifest.task
        task = entry.stored("the manifest's task").planned()
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loading the weights will warn, and here none are kept
            built = task.build(self._outline, variants.get("float32")(), entry.labels, entry.head)
            load_method(method, config, built, folder, self._outline.id)
            if built.head is not None:
                load_head(built.head, folder / HEAD)
        self._known.add(key)

    def _key(self, folder: Path, manifest: Manifest) -> str:
        """A digest of everything but the values of tensors and the names of labels."""
        task = manifest.task.model_dump(mode="json", exclude={"labels", "columns"}) | {
            "labels": len(manifest.task.labels)
        }
        parts = [manifest.schema_version, manifest.method.model_dump(mode="json"), task]
        for name in sorted(manifest.files):
            if name.endswith(".safetensors"):
                header = safetensors_header(folder / name)
                parts.append({key: (one.get("dtype"), one.get("shape")) for key, one in header.items()})
            elif name.endswith(".json"):
                parts.append({name: manifest.files[name].sha256})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
