"""Checkpoints that count only if they are complete, and that know what they belong to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pefttools.errors import ArtifactError
from pefttools.files import canonical_json, open_as_new, sha256_file, write_text_atomic
from pefttools.progress import Reporter

STATE = "trainable.safetensors"
BEST = "best.safetensors"
#: additional state that a method keeps, if any
OF_METHOD = "method.safetensors"
AVERAGE = "average.safetensors"
OF_OBJECTIVE = "objective-{}.safetensors"
#: written last: what the checkpoint belongs to, and a digest of each of its files
MARKER = "complete"
_FILES = (STATE, BEST, "optimizer.pt", "scheduler.pt", "trainer_state.json")

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are unchanged.

    Attributes:
        folder: its path.
        made_from: what determines how training goes, see `pefttools.training.resume`; None if it was written by a
            version that did not record it.
    """

    folder: Path
    made_from: dict[str, Any] | None

    @property
    def step(self) -> int:
        """Number of optimizer steps that were taken."""
        return _step(self.folder)


def any_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that was written completely, whether damaged since or not; None if there is none."""
    return next(_finished(work), None)


def newest_whole(work: Path, reporter: Reporter) -> Checkpoint | None:
    """The newest undamaged checkpoint; None if there is none at all.

    Args:
        work: folder of all checkpoints of a run.
        reporter: told about every one that is skipped.

    Raises:
        ArtifactError: all of them are damaged.
    """
    problems = []
    for folder in _finished(work):
        try:
            found = _opened(folder)
        except ArtifactError as error:
            problems.append(error.message)
            continue
        for problem in problems:
            reporter.event(f"{problem}: going back to {folder.name}")
        return found
    if problems:
        raise ArtifactError(
            f"all checkpoints are damaged: {'; '.join(problems)}",
            hint="Restore one from a copy, or start over with --overwrite (overwrite=True).",
        )
    return None


def begin(folder: Path) -> None:
    """Mark that a checkpoint is being written, where there may be an older one of the same step."""
    (folder / MARKER).unlink(missing_ok=True)


def mark_complete(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Mark that everything in a checkpoint is on disk, and what it belongs to."""
    open_as_new(folder)
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != MARKER:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            digests[path.name] = sha256_file(path)
    write_text_atomic(folder / MARKER, canonical_json({"made_from": dict(made_from), "sha256": digests}))


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
        ArtifactError: names or shapes differ.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unlike = sorted(trained.keys() ^ state.keys()) or [
        name for name, parameter in trained.items() if parameter.shape != state[name].shape
    ]
    if unlike:
        raise ArtifactError(f"{source} is from a different model: {', '.join(unlike[:3])}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])


def _finished(work: Path) -> Iterator[Path]:
    """Folders of checkpoints with a marker, the newest first."""
    found = [path for path in work.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return (path for path in sorted(found, key=_step, reverse=True) if (path / MARKER).is_file())


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _opened(folder: Path) -> Checkpoint:
    """A checkpoint, with every file checked.

    Raises:
        ArtifactError: it is damaged.
    """
    text = (folder / MARKER).read_bytes()
    try:
        marker = json.loads(text) if text else {"made_from": None, "sha256": {}}
        made_from, digests = marker["made_from"], dict(marker["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder} is damaged ({MARKER} can't be read)") from error
    # Without its random state training would continue, but differently.
    missing = [name for name in (*_FILES, *digests) if not (folder / name).is_file()]
    if not any(folder.glob("rng_state*.pth")):
        missing.append("the state of the random generators")
    if missing:
        raise ArtifactError(f"{folder} is damaged ({missing[0]} is missing)")
    changed = [name for name, digest in digests.items() if sha256_file(folder / name) != digest]
    if changed:
        raise ArtifactError(f"{folder} is damaged ({changed[0]} is not as it was written)")
    return Checkpoint(folder, made_from)
