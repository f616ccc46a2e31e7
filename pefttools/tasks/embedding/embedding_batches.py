"""Texts to embed as examples and as batches: each row a text, and those that it is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.tasks.embedding.retrieval_rows import Form, Known, negatives_of
from pefttools.tasks.text.texts import uncut
from pefttools.tasks.types import Batch, Example

if TYPE_CHECKING:
    import torch

#: prefix of the names of a batch's further texts
_OTHER = "other_"


def encoded(table: Table, form: Form | None, tokenizer: Any, limit: int) -> list[Example]:
    """One example per row.

    Args:
        table: the rows.
        form: of their columns; None for texts that are only embedded.
        tokenizer: the base's tokenizer.
        limit: tokens that longer texts are cut to.

    Returns:
        ``input_ids``, ``attention_mask``, ``text``; ``size`` and ``length``, of the longest of a row's texts, cut and
        uncut. With labels ``label``; for pairs ``others``, the texts as JSON, the positive first, and their tokens one
        after the other in ``other_ids``, with their lengths in ``other_sizes``: columns of one type each, for files.
    """
    ids, lengths = _tokens(table.column("text"), tokenizer, limit)
    examples: list[Example] = [
        {"input_ids": one, "attention_mask": [1] * len(one), "length": length, "size": len(one), "text": row["text"]}
        for one, length, row in zip(ids, lengths, table.rows, strict=True)
    ]
    if form == "labels":
        for example, row in zip(examples, table.rows, strict=True):
            example["label"] = label_text(row["label"])
    elif form == "pairs":
        _add_others(examples, table, tokenizer, limit)
    return examples


def _add_others(examples: Sequence[Example], table: Table, tokenizer: Any, limit: int) -> None:
    others = [[row["positive"], *negatives_of(row.get("negative"))] for row in table.rows]
    ids, lengths = _tokens([text for texts in others for text in texts], tokenizer, limit)
    begin = 0
    for example, texts in zip(examples, others, strict=True):
        own, end = ids[begin : begin + len(texts)], begin + len(texts)
        example["others"] = json.dumps(texts)
        example["other_ids"] = [token for one in own for token in one]
        example["other_sizes"] = [len(one) for one in own]
        example["length"] = max(example["length"], *lengths[begin:end])
        example["size"] = max(example["size"], *example["other_sizes"])
        begin = end


def _tokens(texts: Sequence[str], tokenizer: Any, limit: int) -> tuple[list[list[int]], list[int]]:
    """Tokens of texts, cut to a limit, and how many there were before that."""
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    return ids, [uncut(len(one), limit, tokenizer, text) for one, text in zip(ids, texts, strict=True)]


def others_of(example: Example) -> list[list[int]]:
    """Tokens of each of an example's other texts."""
    found, begin = [], 0
    for size in example.get("other_sizes", ()):
        found.append(list(example["other_ids"][begin : begin + size]))
        begin += size
    return found


def collated(examples: Sequence[Example], tokenizer: Any, negatives: int | None) -> Batch:
    """Texts, ``[rows, tokens]``; positives, followed by negatives, under the same names prefixed with ``other_``.

    ``labels`` say what each other text is to each text, see `pefttools.tasks.embedding.contrast`; they are absent for
    rows that are only embedded.

    Args:
        examples: as `encoded` gives them.
        tokenizer: the base's tokenizer.
        negatives: maximum number per row; None for all.
    """
    from pefttools.tasks.embedding import contrast

    batch = _padded([one["input_ids"] for one in examples], tokenizer)
    rows = [known for known in map(Known.of, examples) if known is not None]
    if len(rows) < len(examples):
        return batch
    texts = [row.text for row in rows]
    if not rows[0].others:
        return {**batch, "labels": contrast.of_labels(texts, [row.label for row in rows])}
    most = None if negatives is None else 1 + negatives
    ids = [others_of(one)[:most] for one in examples]
    ordered = [one[0] for one in ids] + [tokens for one in ids for tokens in one[1:]]
    wrong = [text for row in rows for text in row.others[1:most]]
    others = {_OTHER + name: tensor for name, tensor in _padded(ordered, tokenizer).items()}
    return {**batch, **others, "labels": contrast.of_pairs(texts, [row.others[0] for row in rows], wrong)}


def _padded(ids: Sequence[Sequence[int]], tokenizer: Any) -> Batch:
    return dict(tokenizer.pad({"input_ids": list(ids)}, padding_side="right", return_tensors="pt"))


def split(batch: Batch) -> list[Batch]:
    """The texts' inputs, and those of all others if there are any: they are not padded to one length."""
    texts = {name: one for name, one in batch.items() if not name.startswith(_OTHER) and name != "labels"}
    others = {name.removeprefix(_OTHER): one for name, one in batch.items() if name.startswith(_OTHER)}
    return [texts, others] if others else [texts]


def planned(rows: int, length: int, others: int) -> Batch:
    """A batch of texts of one length, each with that many others."""
    import torch

    def of(count: int) -> torch.Tensor:
        return torch.ones(count, length, dtype=torch.long)

    batch: Batch = {}
    for before, count in (("", rows), (_OTHER, rows * others)):
        if count:
            batch |= {f"{before}{name}": of(count) for name in ("input_ids", "attention_mask")}
    return {**batch, "labels": torch.zeros(rows, rows * (others or 1), dtype=torch.long)}
