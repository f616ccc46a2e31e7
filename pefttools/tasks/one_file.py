"""What tasks with one answer per picture or sound have in common; the file is decoded when a batch is made of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from pefttools.data import Table
from pefttools.tasks.task import Batch, Example, Task, TaskConfig

ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class OneFileTask(Task[ConfigT]):
    """Rows of one file each, and one answer."""

    @abstractmethod
    def file_example(self, table: Table, index: int) -> Example:
        """The part of an example that says where the file is.

        Raises:
            DataError: there is no file.
        """

    @abstractmethod
    def target(self, table: Table, index: int, labels: Sequence[str]) -> Any:
        """What is to be learned from a row that was checked, as it appears in its example's ``labels``."""

    def encode(self, table: Table, processor: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        learned = labelled and all(role in table.columns for role, one in self.roles.items() if not one.is_input)
        examples = []
        for index in range(len(table)):
            example = self.file_example(table, index)
            if learned:
                example["labels"] = self.target(table, index, labels)
            examples.append(example)
        return examples

    def collate(self, examples: Sequence[Example], processor: Any) -> Batch:
        import torch

        batch = self.input_batch(examples, processor)
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch
