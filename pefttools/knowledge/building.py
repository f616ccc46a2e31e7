"""Building an index from rows of a file, or from texts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pefttools.artifact import load_artifact
from pefttools.artifact.manifest import read_digest
from pefttools.data.reading import read_table
from pefttools.errors import ConfigError, DataError
from pefttools.files import check_replaceable, folder_atomic, sha256_file
from pefttools.knowledge.dividing import divided
from pefttools.knowledge.embedding import check_encoder, embed
from pefttools.knowledge.index import ABOUT, ENCODER, PASSAGES, VECTORS, About, KnowledgeIndex, open_index
from pefttools.progress import Reporter, SilentReporter

#: tokens of a part of a passage, at least
_SMALLEST = 16


def build_index(
    passages: str | Sequence[str] | Sequence[Mapping[str, Any]],
    encoder: Path,
    output: Path,
    *,
    fields: Sequence[str] = ("text",),
    id_field: str | None = None,
    divide: int | None = None,
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
    if divide is not None:
        found = _parts(found, model.tokenizer, divide)
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


def _parts(passages: Sequence[Mapping[str, str]], tokenizer: Any, tokens: int) -> list[dict[str, str]]:
    """Long passages in parts, named ``7/1``, ``7/2``; the others as they are. Equal parts are kept once.

    Raises:
        ConfigError: parts of so few tokens, or a tokenizer that does not say where its tokens come from.
        DataError: a part would have the name of another passage.
    """
    if tokens < _SMALLEST:
        raise ConfigError(f"parts of passages must have {_SMALLEST} tokens or more, not {tokens}")
    if not tokenizer.is_fast:
        raise ConfigError("the encoder's tokenizer does not say where its tokens come from: passages can't be divided")
    found, texts = [], set()
    for one in passages:
        parts = divided(one["text"], tokenizer, tokens)
        names = [one["id"]] if len(parts) == 1 else [f"{one['id']}/{number}" for number in range(1, len(parts) + 1)]
        for name, part in zip(names, parts, strict=True):
            if part not in texts:  # such as what stands below every page
                texts.add(part)
                found.append({"id": name, "text": part})
    counts = Counter(one["id"] for one in found)
    if double := next((name for name, count in counts.items() if count > 1), None):
        raise DataError(f"a part of a passage would be called {double!r}, as another passage is")
    return found


def _text(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    if len(fields) == 1:
        cell = row.get(fields[0])
        return "" if cell is None else str(cell).strip()
    return "; ".join(f"{name}: {row[name]}" for name in fields if row.get(name) not in (None, ""))
