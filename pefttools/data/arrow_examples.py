"""Encoded examples as typed Arrow columns: lists of token ids in four bytes each, numbers, and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.data.mapped import Codec, Item

if TYPE_CHECKING:
    import pyarrow


class ExampleCodec(Codec):
    """Examples whose fields have one type each.

    Args:
        like: some of the examples, for the types. A field that they lack, or that holds something else, is an error.
    """

    def __init__(self, like: Sequence[Item]) -> None:
        import pyarrow

        names = list(like[0])
        self._schema = pyarrow.schema([(name, _type([item[name] for item in like])) for name in names])

    def encode(self, items: Sequence[Item]) -> pyarrow.RecordBatch:
        import pyarrow

        return pyarrow.RecordBatch.from_pylist(list(items), schema=self._schema)

    def decode(self, batch: pyarrow.RecordBatch) -> list[Item]:
        items: list[Item] = batch.to_pylist()
        return items


def _type(values: Sequence[Any]) -> Any:
    """Arrow's type of values, with room for others of their kind."""
    import pyarrow

    found = pyarrow.infer_type(values)
    if pyarrow.types.is_list(found):
        inner = found.value_type
        # token ids, positions and labels stay far below 2 ** 31
        narrow = pyarrow.int32() if pyarrow.types.is_integer(inner) or pyarrow.types.is_null(inner) else inner
        return pyarrow.large_list(narrow)
    return pyarrow.large_string() if pyarrow.types.is_string(found) else found
