"""The manifest of an artifact: what it is, which base it belongs to, and the size and digest of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pefttools.errors import ArtifactError
from pefttools.files import canonical_json, sha256_file
from pefttools.recipe import stored_task
from pefttools.tasks import Task
from pefttools.tasks.passages import Placement

MANIFEST = "pefttools.json"
#: signature of the manifest, and so of everything; it is optional, and listed nowhere
SIGNATURE = "pefttools.json.sig"
#: a newer minor version adds fields; a newer major version can't be read
SCHEMA = "1.4"


class _Part(BaseModel):
    # Fields of a newer minor schema are kept.
    model_config = ConfigDict(extra="allow", frozen=True)


class FileEntry(_Part):
    """One file of the artifact."""

    size: int
    sha256: str


class BaseEntry(_Part):
    """The base that the artifact belongs to."""

    id: str
    revision: str | None = None
    model_type: str
    structure: str
    weights: str
    variant: str
    size: int
    #: fields of its configuration that change its answers, and the fingerprint of its tokenizer; None in schema 1.1
    config: dict[str, Any] | None = None
    tokenizer: str | None = None


class MethodEntry(_Part):
    """The method, its options, and who provides it."""

    name: str
    config: dict[str, Any]
    distribution: str
    version: str


class TaskEntry(_Part):
    """The task, its options and label names, and which head was trained.

    Attributes:
        columns: role -> column of the training data.
        calibration: what was chosen on validation, such as thresholds; None if nothing was.
    """

    name: str
    config: dict[str, Any]
    labels: list[str]
    head: str
    columns: dict[str, str] = Field(default_factory=dict)
    calibration: dict[str, Any] | None = None

    def stored(self, where: str) -> Task[Any]:
        """The task itself; `where` is for messages."""
        return stored_task(self.name, self.config, where, self.calibration)


class ImportedEntry(_Part):
    """Where an imported adapter came from. Its base was given by the user; nothing in the source verifies it.

    Attributes:
        source: folder or hub id, as the user wrote it.
        revision: commit on the hub, if it came from there.
        importer: name of the importer that read it.
        declared_base: the source's name for its base; the weights have not been compared.
        files: name -> sha256 of every file that was read.
        details: what the method's options do not say, e.g. ranks by module.
    """

    source: str
    revision: str | None = None
    importer: str
    declared_base: str | None = None
    files: dict[str, str]
    details: dict[str, Any] = Field(default_factory=dict)

    def origin(self) -> str:
        """Where it came from and what is not verified, in one sentence."""
        named = f"; the source names {self.declared_base!r}" if self.declared_base else ""
        return f"from {self.source} by {self.importer}; base given by the user, not verified by the source{named}"


class Manifest(_Part):
    """Content of ``pefttools.json``."""

    schema_version: str = SCHEMA
    created: str
    method: MethodEntry
    task: TaskEntry
    base: BaseEntry
    storage: str
    precision: str
    parameters: dict[str, int]
    files: dict[str, FileEntry]
    packages: dict[str, str]
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    #: where the rows that it was trained on had passages that were looked up; None if they had none
    knowledge: Placement | None = None
    #: origin of an adapter that another program trained; None if pefttools did
    imported: ImportedEntry | None = None

    def passages(self) -> str | None:
        """What its rows must have because passages were looked up for them in training; None if none were."""
        found = self.knowledge
        if found is None:
            return None
        place = "before it" if found.into == found.query else f"as {found.into!r}"
        return f"trained on rows with the {found.passages} passages nearest to {found.query!r}, {place}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, with a digest over itself."""
    content = manifest.model_dump(mode="json")
    content["digest"] = _digest(content)
    (folder / MANIFEST).write_text(canonical_json(content), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest; the other files are not checked.

    Raises:
        ArtifactError: there is none, it was changed after it was written, or its schema is too new.
    """
    return parse_manifest(_raw(folder), folder / MANIFEST)


def read_digest(folder: Path) -> str:
    """The digest of an artifact's manifest, and so of everything in it.

    Raises:
        ArtifactError: as `read_manifest`.
    """
    return read_with_digest(folder)[1]


def read_with_digest(folder: Path) -> tuple[Manifest, str]:
    """A manifest and its digest, from a single read; errors as in `read_manifest`."""
    raw = _raw(folder)
    return parse_manifest(raw, folder / MANIFEST), str(json.loads(raw)["digest"])


def _raw(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise missing_manifest(folder) from error


def missing_manifest(folder: Path) -> ArtifactError:
    """The error to raise if a folder has no manifest."""
    what = "is not an artifact: it has no" if folder.is_dir() else "does not exist or is not a folder: no"
    hint = "To make an artifact from an adapter of another program: pefttools import FOLDER --base BASE."
    return ArtifactError(f"{folder} {what} {MANIFEST}", hint=hint if folder.is_dir() else None)


def parse_manifest(raw: bytes, path: Path) -> Manifest:
    """Check a manifest's content.

    Args:
        raw: the file's bytes.
        path: its path, for messages.

    Raises:
        ArtifactError: it was changed after it was written, or its schema is too new.
    """
    try:
        content = json.loads(raw)
        version = str(content["schema_version"])
        major = int(version.partition(".")[0])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", hint="Restore the artifact from a copy.") from error
    if major > int(SCHEMA.partition(".")[0]):
        raise ArtifactError(
            f"{path} has the schema {version}; this version of pefttools reads up to {SCHEMA}",
            hint="Install a newer pefttools.",
        )
    given = content.pop("digest", None)
    # It must also be byte for byte what the writer writes, so that no flipped byte in white space goes unnoticed.
    whole = canonical_json({**content, "digest": given}).encode() if given else b""
    if given != _digest(content) or whole != raw:
        raise ArtifactError(f"{path} was changed after it was written", hint="Restore the artifact from a copy.")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{path} does not follow the schema {version}: {error}") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Check size and sha256 of every file that the manifest lists.

    Raises:
        ArtifactError: a file is missing or differs; names all of them.
    """
    problems = []
    for name, entry in manifest.files.items():
        path = folder / name
        if Path(name).name != name:
            problems.append(f"{name!r} is not a plain file name")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry.size:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {entry.size}")
        elif sha256_file(path) != entry.sha256:
            problems.append(f"{name} has different content (sha256)")
    if problems:
        raise ArtifactError(f"the artifact {folder} is damaged: {'; '.join(problems)}", hint="Restore it from a copy.")


def unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """Files in an artifact's folder that are not part of it."""
    return sorted(path.name for path in folder.iterdir() if path.name not in {MANIFEST, SIGNATURE, *manifest.files})


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Size and digest of every file except the manifest and its signature."""
    return {
        path.name: FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (MANIFEST, SIGNATURE)
    }


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
