"""Passages: indexed, searched, and added to the rows of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.knowledge import Hit, KnowledgeIndex, build_index, open_index
from pefttools.progress import Reporter
from pefttools.tasks.passages import KnowledgeConfig, Placement
from pefttools.tuned import TunedModel

PathLike = str | Path


def index(
    passages: PathLike | Sequence[str] | Sequence[Mapping[str, Any]],
    encoder: PathLike,
    output: PathLike,
    *,
    fields: Sequence[str] = ("text",),
    id_field: str | None = None,
    divide: int | None = None,
    base: str | None = None,
    reporter: Reporter | None = None,
) -> KnowledgeIndex:
    """Embed passages, and write an index in which they are found by what they mean; equal ones are kept once.

    Args:
        passages: a source as `read_table` takes it, or texts, or mappings.
        encoder: an artifact of an embedding task. It is copied into the index; its base is not.
        output: folder of the index; an older index there is replaced.
        fields: columns of the passages. Of one, its text; of several, ``name: value`` for each, as of a table's rows.
        id_field: column that names a passage in citations; by default its row number.
        divide: longer passages are divided into parts of at most so many tokens, at the ends of sentences where there
            are some; the parts of the passage ``7`` are called ``7/1``, ``7/2`` and so on.
        base: path of the encoder's base, if it has moved.
        reporter: shows progress.

    Raises:
        DataError: a passage has no text, or two different ones have the same name.
        ConfigError: the encoder's task gives no vectors for texts; the output holds something else.

    Examples:
        >>> found = pefttools.index("manual.jsonl", "artifacts/encoder", "indexes/manual")
        >>> found.search(["How do I reset it?"])[0][0].text
    """
    given = str(passages) if isinstance(passages, Path) else passages
    return build_index(
        given, Path(encoder), Path(output),
        fields=fields, id_field=id_field, divide=divide, base=base, reporter=reporter,
    )  # fmt: skip


def search(
    knowledge: KnowledgeIndex | PathLike, texts: Sequence[str], *, passages: int = 3, base: str | None = None
) -> list[list[Hit]]:
    """The passages of an index that are nearest to each text, the best first.

    Args:
        knowledge: an index or its folder.
        texts: what is looked up.
        passages: how many for each text.
        base: path of the encoder's base, if it has moved.

    Raises:
        ArtifactError: there is no index, or it is damaged.
    """
    return opened(knowledge, base).search(texts, passages)


def opened(knowledge: KnowledgeIndex | PathLike, base: str | None = None) -> KnowledgeIndex:
    """The index itself."""
    return knowledge if isinstance(knowledge, KnowledgeIndex) else open_index(Path(knowledge), base=base)


def columns_with(model: TunedModel, knowledge: KnowledgeIndex | None, *, labelled: bool = True) -> dict[str, bool]:
    """What a table must have: not what comes from an index."""
    columns = model.task.columns(labelled=labelled)
    placement = model.spec.knowledge if knowledge is None else _placement(model, knowledge)
    if placement is None:
        return columns
    return columns if placement.into == placement.query else {**columns, placement.into: False}


def with_passages(
    model: TunedModel, table: Table, knowledge: KnowledgeIndex | None, reporter: Reporter, *, strict: bool = True
) -> tuple[Table, list[list[Hit]] | None]:
    """The rows as the model reads them, and the passages that were looked up for them; None if none were.

    Raises:
        ConfigError: the model was trained with passages, and there is no index to find them in.
    """
    placement = model.spec.knowledge
    if knowledge is None:
        if placement is None or placement.is_given(table):
            return table, None
        raise ConfigError(
            "the model was trained on rows with passages that were looked up, and no index is given",
            hint="Give one: --knowledge FOLDER (knowledge=FOLDER); `pefttools index` makes it."
            + ("" if placement.into == placement.query else f" Or give passages of your own as {placement.into!r}."),
        )
    return knowledge.add_to(table, _placement(model, knowledge), reporter=reporter, strict=strict)


def _placement(model: TunedModel, knowledge: KnowledgeIndex) -> Placement:
    """Where passages go: as in training, else as the task has it."""
    return model.spec.knowledge or KnowledgeConfig(index=knowledge.folder).placement(model.task)
