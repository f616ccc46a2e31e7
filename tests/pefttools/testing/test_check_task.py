"""The contract check finds what is wrong with a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pefttools.metrics import Measure
from pefttools.metrics.classes import Accuracy
from pefttools.tasks import tasks
from pefttools.tasks.text.sequence_classification import SequenceClassification
from pefttools.testing import check_task
from tests.pefttools.tasks.samples import SAMPLES


class Padded(SequenceClassification):
    """Reads the padding: a row's logits depend on its neighbours."""

    def logits(self, transformer: Any, head: Any, batch: Any) -> torch.Tensor:
        everything = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
        return super().logits(transformer, head, everything)


class Mean(SequenceClassification):
    """Divides by the rows of its own batch, whatever it is told: losses of a step's parts don't add up."""

    def loss(self, logits: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return super().loss(logits, labels)


class _OutOfBounds(Accuracy):
    measure = Measure("%", True, (0.0, 0.0001))


class Bounds(SequenceClassification):
    """Its metric is not what it says."""

    def usual_metrics(self) -> list[Any]:
        return [_OutOfBounds()]


class Lax(SequenceClassification):
    """Takes rows without a text."""

    def check(self, table: Any, labels: Sequence[str], *, labelled: bool = True) -> None:
        return


class Twice(SequenceClassification):
    """Two metrics of one name."""

    def usual_metrics(self) -> list[Any]:
        return [Accuracy(), Accuracy()]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (Padded, "padding changes a row's logits"),
        (Mean, "losses of parts don't add up"),
        (Bounds, "out of its bounds"),
        (Lax, "is empty was accepted"),
        (Twice, "distinct names"),
    ],
)
def test_a_broken_task_is_found_out(broken: Any, problem: str, tiny_bert: str, tmp_path: Path) -> None:
    found = tasks.get

    def get(name: str) -> Any:
        return broken if name == "sequence-classification" else found(name)

    with mock.patch.object(tasks, "get", get), pytest.raises(AssertionError, match=problem):
        check_task({"name": "sequence-classification", "head": "mean"}, base=tiny_bert,
                   rows=SAMPLES["sequence-classification"][1], folder=tmp_path)  # fmt: skip
