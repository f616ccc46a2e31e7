"""What callers are told of an artifact that they make known to a pool."""

from __future__ import annotations

import warnings
from pathlib import Path

from pefttools.artifact import Manifest
from pefttools.artifact.manifest import read_with_digest


def introduced(folder: Path) -> str:
    """The digest of an artifact's manifest, after what is to be said about it.

    A server, which looks passages up itself, makes adapters known by digests that it has read.

    Raises:
        ArtifactError: there is no artifact in the folder.
    """
    manifest, digest = read_with_digest(folder)
    warn_of_passages(folder, unseen_passages(manifest))
    return digest


def unseen_passages(manifest: Manifest) -> str | None:
    """The passages with which an adapter was trained, in words, if its rows don't show that they lack them.

    Where passages have a role of their own, rows without are refused.
    """
    found = manifest.knowledge
    return manifest.passages() if found is not None and found.into == found.query else None


def warn_of_passages(folder: Path, passages: str | None) -> None:
    """Warn if an adapter was trained with such passages."""
    if passages is not None:
        warnings.warn(f"{folder} was {passages}: rows must come with them", stacklevel=4)
