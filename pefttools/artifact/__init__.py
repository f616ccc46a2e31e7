"""Artifacts: small folders that prove what they belong to. See docs/artifact-format.md."""

from pefttools.artifact.load import load_artifact
from pefttools.artifact.manifest import MANIFEST, Manifest, read_manifest, verify_files
from pefttools.artifact.save import save_artifact

__all__ = ["MANIFEST", "Manifest", "load_artifact", "read_manifest", "save_artifact", "verify_files"]
