"""From a user's reference to a foreign adapter to a folder and the importer that recognises it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pefttools.artifact.manifest import MANIFEST
from pefttools.errors import ArtifactError
from pefttools.importers.importer import Importer, importers

_HUB_ID = re.compile(r"(?:hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """A foreign adapter on disk.

    Attributes:
        folder: its files.
        revision: commit on the hub, if it came from there.
        importer: the importer that recognised it.
    """

    folder: Path
    revision: str | None
    importer: Importer


def locate_source(source: str) -> Source:
    """Find a foreign adapter; download it if it is a hub id.

    Raises:
        ArtifactError: it does not exist, is an artifact already, or is not in a format that an importer knows.
    """
    folder = Path(source).expanduser()
    known = [importers.get(name)() for name in importers]
    revision = None
    if not folder.exists():
        match = _HUB_ID.fullmatch(source)
        if match is None or source.startswith((".", "/", "~")):
            raise ArtifactError(f"the folder {source} does not exist", hint="Give a folder, or a hub id (ORG/NAME).")
        folder = _from_hub(match[1], match[2], known)
        revision = folder.name
    if not folder.is_dir():
        raise ArtifactError(f"{source} is a file", hint="Give the folder that it is in.")
    if (folder / MANIFEST).is_file():
        raise ArtifactError(f"{source} is already an artifact: it has a {MANIFEST}", hint="Use it as it is.")
    for importer in known:
        if importer.recognizes(folder):
            return Source(folder, revision, importer)
    formats = "; ".join(f"{importer.name}: {importer.summary}" for importer in known)
    raise ArtifactError(f"{source} is not in a format that can be imported", hint=f"Known: {formats or 'none'}.")


def _from_hub(name: str, revision: str | None, known: list[Importer]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = sorted({pattern for importer in known for pattern in importer.patterns})
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise ArtifactError(
            f"{name!r} is not a local folder, and the hub did not provide it: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}",
            hint="Check the name and the network connection, or give a folder.",
        ) from error
