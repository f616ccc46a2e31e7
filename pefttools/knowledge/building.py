"""Building an index from rows of a file, or from texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pefttools.artifact import load_artifact
from pefttools.artifact.manifest import read_digest
from pefttools.data.reading import read_table
from pefttools.errors import DataError
from pefttools.files import check_replaceable, folder_atomic, sha256_file
from pefttools.knowledge.embedding import check_encoder, embed
from pefttools.knowledge.index import ABOUT, ENCODER, PASSAGES, VECTORS, About, KnowledgeIndex, open_index
from pefttools.progress import Reporter, SilentReporter


def build_index(
    passages: str | Sequence[str] | Sequence[Mapping[str, Any]],
    encoder: Path,
    output: Path,
    *,
    fields: Sequence[str] = ("text",),
    id_field: str | None = None,
    base: str | None = None,
    reporter: Reporter | None = None,
) -> KnowledgeIndex:
    """Embed passages and write an index of them. Arguments and errors: see `pefttools.index`."""
    from safetensors.torch import save_file

    reporter = reporter or SilentReporter()
    check_replaceable(output, ABOUT)
    found = _passages(passages, (fields,) if isinstance(fields, str) else fields, id_field)
    digest = read_digest(encoder)
    model = load_artifact(encoder, base=base)
    check_encoder(model)
    with reporter.step("embedding passages", "passages") as advance:
        vectors, cuts = embed(model, [one["text"] for one in found], progress=advance)
    if cuts.cut:
        reporter.event(f"{cuts.line('the passages')}: only their beginnings can be found")
    with folder_atomic(output, over=ABOUT) as folder:
        lines = (json.dumps(one, ensure_ascii=False) for one in found)
        (folder / PASSAGES).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        save_file({"vectors": vectors}, folder / VECTORS)
        shutil.copytree(encoder, folder / ENCODER)  # compared with its digest when the index is opened, below
        about = About(
            encoder=digest,
            files={name: sha256_file(folder / name) for name in (PASSAGES, VECTORS)},
        )
        (folder / ABOUT).write_text(f"{about.model_dump_json(indent=2)}\n", encoding="utf-8")
    return open_index(output, base=base)


def _passages(
    given: str | Sequence[str] | Sequence[Mapping[str, Any]], fields: Sequence[str], id_field: str | None
) -> list[dict[str, str]]:
    """``id`` and ``text`` of each passage."""
    if isinstance(given, str):
        roles = {**dict.fromkeys(fields, True), **({id_field: True} if id_field else {})}
        rows: Sequence[Mapping[str, Any]] = read_table(given, roles, {}).rows
        source = given
    else:
        rows = [{fields[0]: one} if isinstance(one, str) else one for one in given]
        source = "the passages"
    found: dict[str, str] = {}
    names: set[str] = set()
    for number, row in enumerate(rows, start=1):
        text = _text(row, fields)
        name = str(number if id_field is None else row.get(id_field, ""))
        if not name:
            raise DataError(f"{source}, row {number}: the passage has no {id_field!r}")
        if not text:
            raise DataError(f"{source}, row {number}: the passage has no text")
        if text in found:
            continue
        if name in names:
            raise DataError(f"{source}, row {number}: another passage is called {name!r} too")
        names.add(name)
        found[text] = name
    if not found:
        raise DataError(f"{source} has no passages")
    return [{"id": name, "text": text} for text, name in found.items()]


def _text(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    if len(fields) == 1:
        cell = row.get(fields[0])
        return "" if cell is None else str(cell).strip()
    return "; ".join(f"{name}: {row[name]}" for name in fields if row.get(name) not in (None, ""))
