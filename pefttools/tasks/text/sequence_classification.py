"""Classification of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.tasks.labels.class_config import ClassificationConfig
from pefttools.tasks.labels.one_label import OneLabelTask
from pefttools.tasks.task import Example, Role
from pefttools.tasks.text.text_head import TextHeadTask


class SequenceClassification(OneLabelTask[ClassificationConfig], TextHeadTask[ClassificationConfig]):
    """One label per row; columns `text`, optionally `pair`, and `label`."""

    name = "sequence-classification"
    summary = "one label for a text or a pair of texts"
    config = ClassificationConfig
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "pair": Role("text", required=False),
        "label": Role("label", is_input=False),
    }

    def why_not_merged(self, kind: str, format: str) -> str | None:
        if self.options.answers or self.options.among:
            return "a merged model would also answer with labels that task.answers or task.among leaves out"
        return None

    def check_input(self, table: Table, index: int, row: Row, *, labelled: bool) -> None:
        self.check_texts(table, index)

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": 0}
