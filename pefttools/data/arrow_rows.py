"""Rows as Arrow columns of text: what is text stays text, anything else is kept as JSON next to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.data.mapped import Codec, Item

if TYPE_CHECKING:
    import pyarrow

#: suffix of the name of a column that holds JSON
_JSON = "~json"
#: suffix of the name of a column that holds bytes
_BYTES = "~bytes"


class RowCodec(Codec):
    """Rows with the same fields.

    No value changes its type: 007 stays a text, a list a list, NaN a number. A value that JSON lacks is an error.

    Args:
        names: of the fields.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def encode(self, items: Sequence[Item]) -> pyarrow.RecordBatch:
        import pyarrow

        columns: dict[str, Any] = {}
        for name in self._names:
            values = [item[name] for item in items]
            texts = [value if isinstance(value, str) else None for value in values]
            try:
                columns[name] = pyarrow.array(texts, pyarrow.large_string())
            except UnicodeEncodeError:  # half of a character, which JSON writes as an escape
                texts = [text if text is None or is_whole(text) else None for text in texts]
                columns[name] = pyarrow.array(texts, pyarrow.large_string())
            if any(isinstance(value, bytes) for value in values):
                raw = [value if isinstance(value, bytes) else None for value in values]
                columns[name + _BYTES] = pyarrow.array(raw, pyarrow.large_binary())
            else:
                columns[name + _BYTES] = pyarrow.nulls(len(values), pyarrow.large_binary())
            others = [
                None if text is not None or value is None or isinstance(value, bytes) else json.dumps(value)
                for text, value in zip(texts, values, strict=True)
            ]
            columns[name + _JSON] = pyarrow.array(others, pyarrow.large_string())
        return pyarrow.RecordBatch.from_pydict(columns)

    def decode(self, batch: pyarrow.RecordBatch) -> list[Item]:
        columns = []
        for name in self._names:
            values = batch.column(name).to_pylist()
            others = batch.column(name + _JSON)
            if others.null_count < len(others):
                pairs = zip(values, others.to_pylist(), strict=True)
                values = [value if other is None else json.loads(other) for value, other in pairs]
            raw = batch.column(name + _BYTES)
            if raw.null_count < len(raw):
                values = [value if one is None else one for value, one in zip(values, raw.to_pylist(), strict=True)]
            columns.append(values)
        return [dict(zip(self._names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def is_whole(text: str) -> bool:
    """Whether a text contains no half of a character, which JSON may hold and no encoding knows."""
    if text.isascii():
        return True  # known without looking at the characters
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
