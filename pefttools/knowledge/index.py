"""An index on disk: passages, their vectors, and the encoder that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pefttools.artifact import load_artifact
from pefttools.artifact.manifest import read_digest
from pefttools.data import Table
from pefttools.errors import ArtifactError
from pefttools.files import cache_dir, write_bytes_atomic
from pefttools.knowledge.embedding import check_encoder, embed
from pefttools.progress import Reporter, SilentReporter
from pefttools.tasks.passages import Placement

if TYPE_CHECKING:
    import torch

    from pefttools.tuned import TunedModel

#: files of an index
ABOUT, PASSAGES, VECTORS, ENCODER = "knowledge.json", "passages.jsonl", "vectors.safetensors", "encoder"
_AGAIN = "Build the index again."
#: queries that are compared with all passages at a time
_SLICE = 256


class About(BaseModel):
    """Content of ``knowledge.json``.

    Attributes:
        schema_version: of this file.
        encoder: digest of the encoder's artifact.
        files: name -> sha256.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: str = Field("1.0", pattern=r"^\d+\.\d+$")
    encoder: str
    files: dict[str, str]


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        id: its name in the source; its number if it had none.
        text: the passage.
        score: cosine of its vector and the query's.
    """

    id: str
    text: str
    score: float

    def as_source(self) -> dict[str, str | float]:
        """How an answer cites it."""
        return {"id": self.id, "score": round(self.score, 4)}


def cited(hits: Sequence[Hit] | None) -> dict[str, Any]:
    """The passages that an answer was given with, as a field of it; none if nothing was looked up."""
    return {} if hits is None else {"sources": [hit.as_source() for hit in hits]}


class KnowledgeIndex:
    """Passages that are looked up by what they mean: every query is compared with every passage.

    Args:
        folder: as `build_index` wrote it.
        digest: of its description, and so of everything in it.
        passages: ``id`` and ``text`` of each.
        vectors: of each passage, ``[passages, numbers]``.
        base: path of the encoder's base, if it has moved.
    """

    def __init__(
        self, folder: Path, digest: str, passages: list[dict[str, str]], vectors: torch.Tensor, base: str | None = None
    ) -> None:
        self.folder = folder
        self.digest = digest
        self.passages = passages
        self.vectors = vectors
        self._base = base

    def __len__(self) -> int:
        return len(self.passages)

    @cached_property
    def encoder(self) -> TunedModel:
        """The model that made the vectors; loaded when it is first asked for.

        Raises:
            ArtifactError: it is damaged.
            BaseModelError: its base can't be found.
        """
        model = load_artifact(self.folder / ENCODER, base=self._base)
        check_encoder(model)
        return model

    def release(self) -> None:
        """Let go of the encoder's memory; it is loaded again when it is needed."""
        self.__dict__.pop("encoder", None)

    def search(self, texts: Sequence[str], passages: int = 3, *, reporter: Reporter | None = None) -> list[list[Hit]]:
        """The nearest passages of each text, the best first.

        Args:
            texts: the queries.
            passages: how many for each; fewer if the index has fewer, none for an empty text.
            reporter: shows progress.
        """
        asked = [index for index, text in enumerate(texts) if text.strip()]
        found: list[list[Hit]] = [[] for _ in texts]
        if not asked:
            return found
        with (reporter or SilentReporter()).step("looking up passages", "rows") as advance:
            queries, _ = embed(self.encoder, [texts[index] for index in asked], progress=advance)
        numbers, scores = self._nearest(queries, min(passages, len(self)))
        for index, hits in zip(asked, self._hits(numbers.tolist(), scores.tolist()), strict=True):
            found[index] = hits
        return found

    def add_to(
        self,
        table: Table,
        placement: Placement,
        *,
        reporter: Reporter | None = None,
        keep: bool = False,
        strict: bool = True,
    ) -> tuple[Table, list[list[Hit]]]:
        """A table with the passages that were found for its rows, and these.

        Args:
            table: the rows.
            placement: what is looked up, and where the passages go.
            reporter: shows progress.
            keep: keep what was found in the cache, for the next time that these rows are read.
            strict: refuse rows without a text to look up; see `Placement.add`.

        Raises:
            ConfigError: no row has the role that is looked up.
            DataError: a row without a text to look up.
        """
        queries = placement.queries(table)
        file = _cached(self.digest, queries, placement.passages)
        hits = self._kept(file) if keep else None
        if hits is None:
            hits = self.search(queries, placement.passages, reporter=reporter)
            if keep:
                self._keep(file, hits)
        return placement.add(table, [[hit.text for hit in found] for found in hits], strict=strict), hits

    def _nearest(self, queries: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        found = [torch.topk(part @ self.vectors.T, count) for part in torch.split(queries, _SLICE)]
        return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])

    def _hits(self, numbers: list[list[int]], scores: list[list[float]]) -> list[list[Hit]]:
        return [
            [Hit(score=score, **self.passages[number]) for number, score in zip(row, values, strict=True)]
            for row, values in zip(numbers, scores, strict=True)
        ]

    def _kept(self, file: Path) -> list[list[Hit]] | None:
        from safetensors.torch import load

        if not file.is_file():
            return None
        there = load(file.read_bytes())
        return self._hits(there["numbers"].tolist(), there["scores"].tolist())

    def _keep(self, file: Path, hits: list[list[Hit]]) -> None:
        import torch
        from safetensors.torch import save

        if not all(hits):
            return  # a row without a text, which will be refused
        places = {passage["id"]: number for number, passage in enumerate(self.passages)}
        numbers = torch.tensor([[places[hit.id] for hit in row] for row in hits], dtype=torch.int32)
        scores = torch.tensor([[hit.score for hit in row] for row in hits], dtype=torch.float32)
        write_bytes_atomic(file, save({"numbers": numbers, "scores": scores}))


def open_index(folder: Path, *, base: str | None = None) -> KnowledgeIndex:
    """Open an index, verified.

    Args:
        folder: as `build_index` wrote it.
        base: path of the encoder's base, if it has moved.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    from safetensors.torch import load

    path = folder / ABOUT
    if not path.is_file():
        raise ArtifactError(f"{folder} is not an index of passages: it has no {ABOUT}", hint="See `pefttools index`.")
    raw = path.read_bytes()
    try:
        about = About.model_validate_json(raw)
    except ValidationError as error:
        raise ArtifactError(f"{path} is damaged: {error.errors()[0]['msg']}", hint=_AGAIN) from error
    if int(about.schema_version.partition(".")[0]) > 1:
        raise ArtifactError(f"{path} has the schema {about.schema_version}", hint="Install a newer pefttools.")
    files = {name: _verified(folder / name, digest) for name, digest in about.files.items()}
    if read_digest(folder / ENCODER) != about.encoder:
        raise ArtifactError(f"{folder / ENCODER} is another encoder than that of the index", hint=_AGAIN)
    passages = [json.loads(line) for line in files[PASSAGES].decode().split("\n") if line]
    return KnowledgeIndex(folder, hashlib.sha256(raw).hexdigest(), passages, load(files[VECTORS])["vectors"], base)


def _verified(path: Path, digest: str) -> bytes:
    """A file's content, read once."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtifactError(f"{path} is missing or was changed", hint=_AGAIN)
    return content


def _cached(index: str, queries: Sequence[str], passages: int) -> Path:
    key = hashlib.sha256(json.dumps([index, passages, *queries]).encode(errors="surrogatepass")).hexdigest()
    return cache_dir("passages") / f"{key}.safetensors"
