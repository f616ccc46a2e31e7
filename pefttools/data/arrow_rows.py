"""Rows as Arrow columns of text: what is a text stays one, anything else is kept as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.data.mapped import Codec, Item

if TYPE_CHECKING:
    import pyarrow

#: of the name of a column that holds JSON
_JSON = "~json"


class RowCodec(Codec):
    """Rows with the same fields.

    No value changes its type: 007 stays a text, a list a list, NaN a number. A value that JSON has not is an error.

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
            others = [None if isinstance(value, str) or value is None else json.dumps(value) for value in values]
            columns[name] = pyarrow.array(texts, pyarrow.large_string())
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
            columns.append(values)
        return [dict(zip(self._names, cells, strict=True)) for cells in zip(*columns, strict=True)]
