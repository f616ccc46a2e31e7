"""The rows of a recipe's data as its model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pefttools.bases import Base
from pefttools.bases.loading import load_tokenizer
from pefttools.data import Splits, Table
from pefttools.tasks.task import Example, Task


class Examples:
    """Encoded rows of each split, made when first asked for, once.

    Args:
        task: encodes them.
        base: its tokenizer is taken.
        splits: the rows.
        labels: label names.
    """

    def __init__(self, task: Task[Any], base: Base, splits: Splits, labels: Sequence[str]) -> None:
        self._task = task
        self._base = base
        self._splits = splits
        self._labels = labels

    @cached_property
    def train(self) -> list[Example]:
        """Of the training split."""
        return self._encoded(self._splits.train)

    @cached_property
    def validation(self) -> list[Example]:
        """Of the validation split."""
        return self._encoded(self._splits.validation)

    @cached_property
    def test(self) -> list[Example] | None:
        """Of the test split, where there is one."""
        return None if self._splits.test is None else self._encoded(self._splits.test)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest training example."""
        return max(len(example["input_ids"]) for example in self.train)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._base)

    def _encoded(self, table: Table) -> list[Example]:
        return self._task.encode(table, self._tokenizer, self._labels)
