"""Reading an artifact as it was at one moment, whatever happens to its folder meanwhile."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from pefttools.artifact.finite import check_finite
from pefttools.artifact.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest, missing_manifest, parse_manifest
from pefttools.errors import ArtifactError, PeftToolsError, WriteError
from pefttools.files import sha256_file
from pefttools.system import Place, open_inside, opened_folder, show

if TYPE_CHECKING:
    from pefttools.artifact.signing import Signers

#: how often an artifact may be replaced while its files are opened, and the seconds before another try
_TRIES, _PAUSE = 200, 0.005
#: bytes; Ed25519 has 64
_LARGEST_SIGNATURE = 4096


@dataclass(frozen=True)
class Held:
    """An artifact whose files are held open, or as copies.

    Attributes:
        folder: a folder that contains, while the artifact is held, its manifest, its signature if it has one, and the
            listed files, and nothing else.
        manifest: its manifest.
        digest: digest of the manifest, and so of everything.
        raw: the manifest's bytes.
    """

    folder: Path
    manifest: Manifest
    digest: str
    raw: bytes = b""


class _Replaced(Exception):
    """The folder is not the one that it was a moment ago."""


@contextmanager
def hold(folder: Path, signers: Signers | None = None) -> Iterator[Held]:
    """Verify an artifact, and keep exactly what was verified until the block ends.

    The files are opened once, in one folder, which may be replaced or removed after that: whoever reads them in the
    block reads those files. If signatures are required, the files are copied first, and the copies are verified and
    read: somebody who may write there, but not sign, could change an open file in place. Errors name files by their
    path in `folder`.

    Args:
        folder: the artifact.
        signers: whose signature it must have; None if none is required.

    Raises:
        WriteError: no space left for temporary files.
        ArtifactError: there is none; a file is missing, differs or can't be read; the manifest was changed.
        UnsignedError: it has no such signature.
    """
    with ExitStack() as stack:
        try:
            view = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pefttools-")))
        except OSError as error:
            raise WriteError(
                f"no space left for temporary files: {error.strerror}", hint="Free some space, or set TMPDIR."
            ) from error
        try:
            yield _opened(folder, view, stack, signers)
        except PeftToolsError as error:
            error.message = error.message.replace(str(view), str(folder))
            error.args = (error.message,)
            raise
        except SafetensorError as error:
            raise ArtifactError(f"{folder} can't be read: {str(error).replace(str(view), str(folder))}") from error


@contextmanager
def hold_weights(folder: Path, signers: Signers | None = None) -> Iterator[Held]:
    """As `hold`, for those who use the weights: also checks that they are finite.

    Raises:
        ArtifactError: as `hold`, or NaN or infinite values.
    """
    with hold(folder, signers) as held:
        check_finite(held.folder, held.manifest)
        yield held


def _opened(folder: Path, view: Path, stack: ExitStack, signers: Signers | None) -> Held:
    for _ in range(_TRIES):
        with ExitStack() as once:
            try:
                held = _try(folder, view, once, signers)
            except _Replaced:
                for path in view.iterdir():
                    path.unlink()
                time.sleep(_PAUSE)
                continue
            stack.push(once.pop_all())
            return held
    raise ArtifactError(f"{folder} is being replaced faster than it can be read")


def _try(folder: Path, view: Path, stack: ExitStack, signers: Signers | None) -> Held:
    try:
        place = stack.enter_context(opened_folder(folder))
    except OSError as error:
        raise missing_manifest(folder) from error
    try:
        stream = stack.enter_context(open_inside(place, MANIFEST))
    except OSError as error:
        _check_same(folder, place, error)
        raise missing_manifest(folder) from error
    raw = stream.read()
    manifest = parse_manifest(raw, folder / MANIFEST)
    (view / MANIFEST).write_bytes(raw)
    signature = _signature(place, view)
    if signers is not None:
        signers.check(folder, raw, signature)
    problems = []
    for name, entry in manifest.files.items():
        try:
            problem = _take(place, name, entry, view, stack, copied=signers is not None)
        except OSError as error:
            _check_same(folder, place, error)
            problem = f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name}: {error.strerror}"
        if problem:
            problems.append(problem)
    if problems:
        raise ArtifactError(f"the artifact {folder} is damaged: {'; '.join(problems)}", hint="Restore it from a copy.")
    return Held(view, manifest, str(json.loads(raw)["digest"]), raw)


def _signature(place: Place, view: Path) -> bytes | None:
    """Content of the signature, which is put in `view`; None if there is none that could be valid."""
    try:
        with open_inside(place, SIGNATURE) as stream:
            info = os.fstat(stream.fileno())
            content = stream.read() if stat.S_ISREG(info.st_mode) and info.st_size <= _LARGEST_SIGNATURE else None
    except OSError:
        return None
    if content is not None:
        (view / SIGNATURE).write_bytes(content)
    return content


def _take(place: Place, name: str, entry: FileEntry, view: Path, stack: ExitStack, *, copied: bool) -> str | None:
    """Open and verify one file and put it in `view`; returns what is wrong with it."""
    if Path(name).name != name:
        return f"{name!r} is not a plain file name"
    stream = stack.enter_context(open_inside(place, name))
    info = os.fstat(stream.fileno())
    if not stat.S_ISREG(info.st_mode):
        return f"{name} is not a file"
    if info.st_size != entry.size:
        return f"{name} has {info.st_size} bytes instead of {entry.size}"
    show(stream, view / name, copied=copied)
    same = sha256_file(view / name) == entry.sha256
    return None if same else f"{name} has different content (sha256)"


def _check_same(folder: Path, place: Place, error: OSError) -> None:
    """Distinguish a missing file from a folder that was replaced or removed while its files were opened.

    Raises:
        _Replaced: the name now belongs to another folder, or to none.
    """
    if isinstance(place, Path):
        return
    try:
        there = folder.stat()
    except FileNotFoundError:
        raise _Replaced from error
    mine = os.fstat(place)
    if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
        raise _Replaced from error
