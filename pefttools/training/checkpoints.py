"""Checkpoints that are whole or don't count."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pefttools.errors import ArtifactError
from pefttools.files import open_as_new, write_text_atomic

STATE = "trainable.safetensors"
BEST = "best.safetensors"
MARKER = "complete"

State = dict[str, torch.Tensor]


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None: there is none."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / MARKER).is_file()
    ]
    return max(found)[1] if found else None


def mark_complete(folder: Path) -> None:
    """Say that everything in a checkpoint is on the disk."""
    open_as_new(folder)
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    write_text_atomic(folder / MARKER, "")


def write_state(path: Path, state: State, **notes: str) -> None:
    """Write tensors by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, path, metadata=notes)


def read_state(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors by name, and the notes that were written with them."""
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    return load_file(path), notes


def put_state(model: torch.nn.Module, state: State, source: str) -> None:
    """Copy tensors into the parameters that are trained; every one of them must be there.

    Raises:
        ArtifactError: the names differ.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if trained.keys() != state.keys():
        unlike = sorted(trained.keys() ^ state.keys())
        raise ArtifactError(f"{source} is of another model: {', '.join(unlike[:3])}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])
