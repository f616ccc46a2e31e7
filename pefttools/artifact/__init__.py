"""Artifacts: small folders that verify which base model they were trained on. See docs/artifact-format.md.

Manifests can be read without torch, which is loaded with the first function that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pefttools.artifact.manifest import MANIFEST, Manifest, read_manifest, verify_files

if TYPE_CHECKING:
    from pefttools.artifact.load import load_artifact as load_artifact
    from pefttools.artifact.save import save_artifact as save_artifact

_HOMES = {"load_artifact": "pefttools.artifact.load", "save_artifact": "pefttools.artifact.save"}

__all__ = ["MANIFEST", "Manifest", "load_artifact", "read_manifest", "save_artifact", "verify_files"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pefttools.artifact' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
