"""The rows of a recipe's data as its model takes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pefttools.bases import Base
from pefttools.data import Splits, Table
from pefttools.data.arrow_examples import ExampleCodec
from pefttools.data.mapped import SMALL, found, kept
from pefttools.files import sha256_file
from pefttools.tasks.cuts import Cuts, cuts_of
from pefttools.tasks.task import Example, Task

#: number of rows that are encoded at a time
_SLICE = 2_000
#: version of cached examples; changes when a task encodes the same row differently
_FORMAT = 2


class Examples:
    """Encoded rows of each split, made when first asked for, once; those of large splits are kept in files.

    Args:
        task: encodes them.
        base: its processor is used.
        splits: the rows.
        labels: label names.
    """

    def __init__(self, task: Task[Any], base: Base, splits: Splits, labels: Sequence[str]) -> None:
        self._task = task
        self._base = base
        self._splits = splits
        self._labels = labels

    @cached_property
    def train(self) -> Sequence[Example]:
        """What is trained on: the rows of the training split, or their parts; see `Task.training_set`."""
        return self._task.training_set(self._rows)

    @cached_property
    def _rows(self) -> Sequence[Example]:
        """The rows of the training split."""
        return self._encoded(self._splits.train)

    @cached_property
    def validation(self) -> Sequence[Example]:
        """The rows of the validation split."""
        return self._encoded(self._splits.validation)

    @cached_property
    def test(self) -> Sequence[Example] | None:
        """The rows of the test split, if there is one."""
        return None if self._splits.test is None else self._encoded(self._splits.test)

    @cached_property
    def cuts(self) -> dict[str, Cuts]:
        """Rows that are longer than the task takes, by split."""
        return {name: cuts_of(examples, self._task) for name, examples in self._by_split().items()}

    @cached_property
    def notes(self) -> list[str]:
        """What became of the rows of each split, one line each."""
        by_split = {name: self._task.example_notes(examples) for name, examples in self._by_split().items()}
        return [f"{name}: {note}" for name, notes in by_split.items() for note in notes]

    def _by_split(self) -> dict[str, Sequence[Example]]:
        splits = {"train": self._rows, "validation": self.validation, "test": self.test}
        return {name: examples for name, examples in splits.items() if examples is not None}

    @cached_property
    def processor(self) -> Any:
        """What encodes the rows."""
        return self._task.processor(self._base)

    def _encoded(self, table: Table) -> Sequence[Example]:
        if len(table) <= SMALL:
            return self._task.encode(table, self.processor, self._labels)
        key = self._key(table)
        like = self._task.encode(table.take(range(min(_SLICE, len(table)))), self.processor, self._labels)
        codec = ExampleCodec(like)
        there = found(key, lambda _: codec)
        return there[0] if there is not None else kept(self._stream(table), lambda _: codec, key)

    def _stream(self, table: Table) -> Iterator[Example]:
        for start in range(0, len(table), _SLICE):
            part = table.take(range(start, min(start + _SLICE, len(table))))
            yield from self._task.encode(part, self.processor, self._labels)

    def _key(self, table: Table) -> str:
        """Identifies examples by everything that determines them: rows, tokenizer, task and labels."""
        from transformers import __version__

        files = sorted(
            path for path in Path(self._base.folder).glob("*") if path.is_file() and _is_of_tokenizer(path.name)
        )
        said = [
            _FORMAT,
            table.digest(),
            [(path.name, sha256_file(path)) for path in files],
            __version__,
            f"{type(self._task).__module__}.{type(self._task).__qualname__}",
            self._task.options.model_dump(mode="json"),
            list(self._labels),
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _is_of_tokenizer(name: str) -> bool:
    """Whether a file may determine how a tokenizer works: any except weights."""
    return not name.endswith((".safetensors", ".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".md"))
