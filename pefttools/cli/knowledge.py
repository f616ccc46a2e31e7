"""``pefttools index | search``: passages that are looked up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from pefttools.cli.artifacts import BASE


def index(
    passages: str = typer.Argument(help="Rows: file, package: reference or hub data set."),
    encoder: Path = typer.Option(..., "--encoder", help="Artifact of an embedding task, which embeds the passages."),
    output: Path = typer.Option(..., "--output", help="Folder of the index."),
    field: list[str] = typer.Option(
        ["text"], "--field", help="Column of the passage; of several, each becomes `name: value`."
    ),
    id_field: str | None = typer.Option(None, "--id", metavar="COLUMN", help="Column that names a passage."),
    divide: int | None = typer.Option(
        None, "--divide", min=16, metavar="TOKENS", help="Divide longer passages at the ends of sentences."
    ),
    base: str | None = BASE,
) -> None:
    """Build an index of passages, which can be looked up for the rows of a recipe and of predictions.

    Examples:
        pefttools index manual.jsonl --encoder artifacts/encoder --output indexes/manual
        pefttools index manual.jsonl --divide 128 --encoder artifacts/encoder --output indexes/manual
        pefttools index goods.csv --field name --field price --encoder artifacts/encoder --output indexes/goods
    """
    from pefttools import api
    from pefttools.progress import default_reporter

    found = api.index(
        passages,
        encoder,
        output,
        fields=field,
        id_field=id_field,
        divide=divide,
        base=base,
        reporter=default_reporter(),
    )
    print(f"{len(found):,} passages in {output}")


def search(
    knowledge: Path = typer.Argument(help="Folder of the index."),
    text: list[str] = typer.Option(..., "--text", help="What is looked up; may be repeated. - reads lines from stdin."),
    passages: int = typer.Option(3, "--passages", min=1, help="Number of passages for each text."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object per text."),
    base: str | None = BASE,
) -> None:
    """Print the passages of an index that are nearest to a text.

    Examples:
        pefttools search indexes/manual --text "How do I reset it?"
    """
    from pefttools import api

    texts = [line.rstrip("\r\n") for line in sys.stdin] if text == ["-"] else text
    for one, hits in zip(texts, api.search(knowledge, texts, passages=passages, base=base), strict=True):
        if as_json:
            found = [{"id": hit.id, "score": round(hit.score, 4), "text": hit.text} for hit in hits]
            print(json.dumps({"query": one, "passages": found}, ensure_ascii=False))
            continue
        print(one)
        for hit in hits:
            print(f"  {hit.score:.3f}  [{hit.id}] {hit.text}")
