"""Sequences of dicts in a memory-mapped Arrow file: as large as the disk, and read once per content.

A short sequence stays a list. A longer one is written slice by slice while it is made, and opened memory-mapped. If
its content has a key, the file stays in the cache and the next process maps it at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from pefttools.files import cache_dir

if TYPE_CHECKING:
    import pyarrow

Item = dict[str, Any]

#: number of items up to which a sequence stays a list
SMALL = 20_000
_SLICE = 2_000
_CACHED_DAYS = 30
#: prefix of the name of a file that is being written
_NEW = ".new-"
_ABOUT = b"about"


class Codec(ABC):
    """How items become columns of Arrow and come back as they were."""

    @abstractmethod
    def encode(self, items: Sequence[Item]) -> pyarrow.RecordBatch:
        """A slice of items as a batch; every batch of one file has the same schema."""

    @abstractmethod
    def decode(self, batch: pyarrow.RecordBatch) -> list[Item]:
        """The items of a batch, or of a slice of one."""


class MappedItems(Sequence[Item]):
    """Items in an Arrow file, decoded on access.

    Args:
        batches: batches of the file.
        codec: reads them.
    """

    def __init__(self, batches: Sequence[pyarrow.RecordBatch], codec: Codec) -> None:
        self.batches = batches
        self._codec = codec
        self._starts = [0]
        for batch in batches:
            self._starts.append(self._starts[-1] + batch.num_rows)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.batches[0].schema.names)

    def numbers(self, name: str) -> list[int]:
        """All values of a column, without decoding the others."""
        return [value for batch in self.batches for value in batch.column(name).to_pylist()]

    def lengths(self, name: str) -> list[int]:
        """Lengths of the lists in a column, without decoding them."""
        return [size for batch in self.batches for size in batch.column(name).value_lengths().to_pylist()]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else int(index)
        if not 0 <= at < len(self):
            raise IndexError(f"{index} of {len(self)} items")
        number = bisect_right(self._starts, at) - 1
        return self._codec.decode(self.batches[number].slice(at - self._starts[number], 1))[0]

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches:
            yield from self._codec.decode(batch)

    def gather(self, indices: Sequence[int]) -> list[Item]:
        """Items at several indices; neighbours of one batch are decoded together."""
        import pyarrow

        found: list[Item] = []
        for number, run in itertools.groupby(indices, lambda index: bisect_right(self._starts, index) - 1):
            start = self._starts[number]
            inside = pyarrow.array([index - start for index in run], pyarrow.int64())
            found += self._codec.decode(self.batches[number].take(inside))
        return found


class Chosen(Sequence[Item]):
    """Items of a sequence at some indices, which are not copied.

    Args:
        items: the sequence.
        indices: which of its items, in that order.
    """

    def __init__(self, items: Sequence[Item], indices: Sequence[int]) -> None:
        self.items: Sequence[Item] = items
        self.indices: array[int] = array("q", indices)
        if isinstance(items, Chosen):
            self.items, self.indices = items.items, array("q", (items.indices[index] for index in indices))

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return gathered(self.items, self.indices[index])
        return self.items[self.indices[index]]

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self.indices), _SLICE):
            yield from gathered(self.items, self.indices[start : start + _SLICE])


def gathered(items: Sequence[Item], indices: Sequence[int]) -> list[Item]:
    """Items at several indices."""
    if isinstance(items, Chosen):
        return gathered(items.items, [items.indices[index] for index in indices])
    return items.gather(indices) if isinstance(items, MappedItems) else [items[index] for index in indices]


def kept(
    items: Iterable[Item],
    codec: Callable[[Sequence[Item]], Codec],
    key: str | None = None,
    about: Callable[[], Any] = lambda: None,
) -> Sequence[Item]:
    """Items as a list if they are few, else in a file.

    Args:
        items: read once.
        codec: makes the codec of the file, given the first items.
        key: identifies the content: the same key means the same items. None for a file that goes with the process.
        about: gives what is kept along with them, as JSON; called when all items have been read.
    """
    stream = iter(items)
    first = _take(stream, SMALL + 1)
    if len(first) <= SMALL:
        return first
    chosen = codec(first)
    path = _new_file()
    try:
        _write(path, first, stream, chosen, about)
        if key is not None:
            target = _entry(key)
            _forget_old(target.parent)
            path = path.replace(target)
        return _opened(path, lambda _: chosen)[0]
    finally:
        if path.name.startswith(_NEW):
            path.unlink(missing_ok=True)  # what is mapped stays readable


def found(key: str, codec: Callable[[Any], Codec]) -> tuple[Sequence[Item], Any] | None:
    """Items that an earlier process kept under a key, and what it kept along with them; None if there are none.

    Args:
        key: key of the items.
        codec: makes the codec of the file, given what was kept along with them.
    """
    path = _entry(key)
    try:
        items = _opened(path, codec)
        os.utime(path)
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors: a damaged file is written again
        return None
    return items


def forget(key: str) -> None:
    """Keep no items under a key; those that are mapped stay readable."""
    _entry(key).unlink(missing_ok=True)


def _opened(path: Path, codec: Callable[[Any], Codec]) -> tuple[MappedItems, Any]:
    import pyarrow

    reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
    *batches, (_, metadata) = (reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches))
    about = json.loads(metadata[_ABOUT])
    return MappedItems([batch for batch, _ in batches], codec(about)), about


def _write(path: Path, first: list[Item], rest: Iterator[Item], codec: Codec, about: Callable[[], Any]) -> None:
    import pyarrow

    with contextlib.ExitStack() as stack:
        writer = None
        for start in range(0, len(first), _SLICE):
            batch = codec.encode(first[start : start + _SLICE])
            if writer is None:
                writer = stack.enter_context(pyarrow.ipc.new_file(str(path), batch.schema))
            writer.write_batch(batch)
        first.clear()
        assert writer is not None
        while part := _take(rest, _SLICE):
            writer.write_batch(codec.encode(part))
        # what is known only now goes into the last batch, which has no rows
        empty = codec.encode([])
        writer.write_batch(empty, custom_metadata={_ABOUT: json.dumps(about())})


def _take(stream: Iterator[Item], count: int) -> list[Item]:
    return [item for _, item in zip(range(count), stream, strict=False)]


def _new_file() -> Path:
    handle, name = tempfile.mkstemp(dir=cache_dir("rows"), prefix=_NEW, suffix=".arrow")
    os.close(handle)
    return Path(name)


def _entry(key: str) -> Path:
    return cache_dir("rows") / f"{key}.arrow"


def _forget_old(folder: Path) -> None:
    """Remove files that have not been opened for a month, and what killed writers left behind."""
    limit = time.time() - _CACHED_DAYS * 86_400
    for path in folder.glob("*.arrow"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < limit:
                path.unlink()
