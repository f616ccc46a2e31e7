"""From what a user writes as a base model to a folder on disk with its fingerprints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pefttools.bases.fingerprint import (
    model_type,
    stored_parameters,
    structure_fingerprint,
    weight_files,
    weights_fingerprint,
)
from pefttools.bases.identity import function_fields, tokenizer_fingerprint
from pefttools.bases.packed_checkpoint import check_packed_format
from pefttools.bases.quiet import quiet
from pefttools.errors import BaseModelError, DataError
from pefttools.files import cache_dir, folder_atomic, sha256_file
from pefttools.packages import is_package_reference, package_path


@dataclass(frozen=True)
class Base:
    """A base model on disk.

    Attributes:
        id: what the user wrote: a hub id, a path or a ``package:`` reference.
        folder: config, tokenizer and safetensors files.
        revision: commit on the hub, if it came from there.
    """

    id: str
    folder: Path
    revision: str | None = None

    @cached_property
    def model_type(self) -> str:
        """transformers' `model_type`."""
        return model_type(self.folder)

    @cached_property
    def structure(self) -> str:
        """Fingerprint of names and shapes."""
        return structure_fingerprint(self.folder)

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return weights_fingerprint(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Fields of its configuration that change its answers."""
        return function_fields(self.folder)

    @cached_property
    def tokenizer_digest(self) -> str:
        """Fingerprint of its tokenizer."""
        return tokenizer_fingerprint(self.folder)

    @cached_property
    def identity(self) -> str:
        """Fingerprint of everything that determines its answers."""
        parts = [self.structure, self.weights, self.config, self.tokenizer_digest]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def parameters(self) -> int:
        """Number of parameters in the files."""
        return stored_parameters(self.folder)

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in weight_files(self.folder))


def locate_base(source: str, revision: str | None = None) -> Base:
    """Find a base model; download it from the hub if it is a hub id.

    Args:
        source: a folder, a ``.gguf`` file, a ``package:`` reference to either, or a hub id.
        revision: branch, tag or commit of a hub id.

    Raises:
        BaseModelError: nothing there, or not a model.
    """
    if is_package_reference(source):
        try:
            path = package_path(source)
        except DataError as error:
            raise BaseModelError(error.message, hint=error.hint) from error
    else:
        path = Path(source).expanduser()
        if not path.exists():
            if _looks_like_path(source):
                raise BaseModelError(
                    f"the base model {source!r} does not exist",
                    hint="Give a folder with config.json and model.safetensors, a .gguf file, a package: reference "
                    "or a hub id (ORG/NAME).",
                )
            found = _from_hub(source, revision)
            check_packed_format(source, found.folder)
            return found
    if path.suffix == ".gguf":
        path = _from_gguf(path)
    base = Base(source, path)
    check_packed_format(source, path)
    weight_files(path)
    _ = base.model_type
    return base


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or source.endswith(".gguf")


def _from_hub(source: str, revision: str | None) -> Base:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            source,
            revision=revision,
            allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
        )
    except Exception as error:
        raise BaseModelError(
            f"the base model {source!r} is not a local folder, and the hub did not provide it: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}",
            hint="Check the name and the network connection, or give a folder.",
        ) from error
    return Base(source, Path(folder), revision=Path(folder).name)


def _from_gguf(file: Path) -> Path:
    """Dequantize a GGUF file once into a folder of the cache (a GGUF model can't be trained as it is)."""
    folder = cache_dir("models") / f"{file.stem}-{sha256_file(file)[:16]}"
    if folder.is_dir():
        return folder
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise BaseModelError(f"reading {file.name} needs the package gguf", hint="pip install gguf") from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet(), folder_atomic(folder) as temporary:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder
