"""Two fingerprints of a base model, read from its files without loading it."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import time
from pathlib import Path
from typing import Any

from pefttools.errors import BaseModelError
from pefttools.files import cache_dir, canonical_json, sha256_file, write_text_atomic

#: nanoseconds after which a file's times distinguish one change from another
_YOUNG = 2_000_000_000


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted by name.

    Raises:
        BaseModelError: there is none.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise BaseModelError(f"the base model {folder} lacks {', '.join(missing)}, which its index names")
        return files
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise BaseModelError(
        f"the base model {folder} has no model.safetensors",
        hint="pefttools reads safetensors only; convert pickled weights with model.save_pretrained(folder).",
    )


def structure_fingerprint(folder: Path) -> str:
    """sha256 over the model type and every parameter's name and shape, as the files hold them."""
    lines = [f"model_type {model_type(folder)}"]
    for file in weight_files(folder):
        for name, entry in safetensors_header(file).items():
            if name != "__metadata__":
                lines.append(f"{name} {'x'.join(map(str, entry['shape']))}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def stored_parameters(folder: Path) -> int:
    """Number of values in the weight files of a model folder."""
    headers = (safetensors_header(file) for file in weight_files(folder))
    shapes = (entry["shape"] for header in headers for name, entry in header.items() if name != "__metadata__")
    return sum(math.prod(shape) for shape in shapes)


def weights_fingerprint(folder: Path) -> str:
    """sha256 of the weights file; of a sharded model, sha256 over the shards' names and digests.

    For a single file from a hub this is the digest that the hub publishes. Digests are cached by path, size, times
    and inode; after `forget_digests` they are computed again.
    """
    files = weight_files(folder)
    digests = [_cached_digest(file) for file in files]
    if len(files) == 1:
        return digests[0]
    lines = [f"{file.name} {digest}" for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def forget_digests(folder: Path) -> None:
    """Read the weight files of a folder again when their digests are needed next."""
    for file in weight_files(folder):
        _entry(file).unlink(missing_ok=True)


def model_type(folder: Path) -> str:
    """`model_type` of a model folder's config.json.

    Raises:
        BaseModelError: no readable config.json, or none that names a model type.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"{path} is not a model configuration: {error!r}") from error


def safetensors_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> dtype, shape and offsets."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError(f"a header of {length} bytes in a file of {file.stat().st_size}")
            header: dict[str, Any] = json.loads(stream.read(length))
            return header
    except (OSError, ValueError, struct.error) as error:
        raise BaseModelError(f"{file} is not a readable safetensors file: {error}") from error


def _cached_digest(file: Path) -> str:
    stat = file.resolve().stat()
    entry = _entry(file)
    # Size and mtime can be preserved when a file is changed; the time when its inode changed last can't.
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
    try:
        cached = json.loads(entry.read_text(encoding="utf-8"))
        if cached["stamp"] == stamp:
            return str(cached["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no entry, or a damaged one: hash again
    digest = sha256_file(file)
    # A change within the same clock tick leaves the same stamp: a file that recent is read again next time.
    if time.time_ns() - stat.st_ctime_ns > _YOUNG:
        write_text_atomic(entry, canonical_json({"stamp": stamp, "sha256": digest}))
    return digest


def _entry(file: Path) -> Path:
    key = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]
    return cache_dir("digests") / f"{key}.json"
