"""Detecting adapters that do nothing, from their files alone: neither a base nor torch is loaded."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pefttools.artifact.manifest import Manifest
from pefttools.bases.fingerprint import safetensors_header
from pefttools.errors import PeftToolsError
from pefttools.methods import methods

#: the task head's own file, which is not part of what the method trained
_HEAD = "head.safetensors"
#: a tensor of one of the repeated blocks; those outside that no rule names are the task head's
_IN_BLOCK = re.compile(r"\.\d+\.")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def has_effect(folder: Path, manifest: Manifest) -> bool:
    """Whether an adapter changes its base at all, apart from the task head. Also True if that is not known.

    Args:
        folder: the artifact.
        manifest: its manifest.
    """
    files = [file for file in sorted(folder.glob("*.safetensors")) if file.name != _HEAD]
    try:
        rules = methods.get(manifest.method.name).neutral
        return not rules or not files or any(_acts(file, rules) for file in files)
    except PeftToolsError:
        return True  # a plugin that is not installed, or a damaged file: reported elsewhere


def warn_without_effect(folder: Path, manifest: Manifest, title: object = None) -> None:
    """Warn if `has_effect` is False; the warning names `title`, or else the folder."""
    if not has_effect(folder, manifest):
        warnings.warn(
            f"{title or folder}: every change that this {manifest.method.name!r} adapter makes to its base is zero: "
            "it answers like the base with its task head. Was it saved before training?",
            stacklevel=2,
        )


def _acts(file: Path, rules: Mapping[str, float | None]) -> bool:
    with file.open("rb") as stream:
        header = safetensors_header(file)
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            values = [value for pattern, value in rules.items() if re.search(pattern, name)]
            if not values:
                if _IN_BLOCK.search(name):
                    return True
                continue
            if values[0] is None:
                continue
            if entry["dtype"] not in _DTYPES or not _is_all(stream, start, entry, values[0]):
                return True
    return False


def _is_all(stream: Any, start: int, entry: dict[str, Any], value: float) -> bool:
    """Whether every number of a stored tensor is `value`."""
    import numpy as np

    first, last = entry["data_offsets"]
    stream.seek(start + first)
    numbers = np.frombuffer(stream.read(last - first), dtype=_DTYPES[entry["dtype"]])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        numbers = (numbers.astype("<u4") << 16).view("<f4")
    return bool((numbers == value).all())
