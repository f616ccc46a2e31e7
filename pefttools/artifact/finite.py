"""Checking that weights are finite numbers."""

from __future__ import annotations

from pathlib import Path

from pefttools.artifact.manifest import Manifest
from pefttools.errors import ArtifactError


def check_finite(folder: Path, manifest: Manifest) -> None:
    """Refuse weights that are not finite: every answer would be the first label, or no answer.

    Raises:
        ArtifactError: NaN or infinite values; names file and tensor.
    """
    import torch
    from safetensors import safe_open

    for name in manifest.files:
        if not name.endswith(".safetensors"):
            continue
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(key)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise ArtifactError(
                        f"{folder / name}: {key} has values that are not finite numbers",
                        hint="Its training diverged. Train again with a smaller learning rate.",
                    )
