"""Sentence embedding: a vector for a text, near to those of texts that mean the same."""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pefttools.bases import Base
from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.data.labels import label_text
from pefttools.data.mapped import MappedItems
from pefttools.errors import DataError
from pefttools.metrics import Metric
from pefttools.metrics.ranking import ByChance
from pefttools.metrics.retrieval import MRR, NDCG, HitRate, Recall, RetrievalMetric
from pefttools.tasks.embedding.embedding_batches import collated, encoded, others_of, planned, split
from pefttools.tasks.embedding.embedding_config import SentenceEmbeddingConfig
from pefttools.tasks.embedding.embedding_prediction import EmbeddingPrediction, as_array
from pefttools.tasks.embedding.retrieval_rows import (
    Candidates,
    Known,
    check_labels,
    check_pair,
    form_of,
    group_notes,
    pair_notes,
)
from pefttools.tasks.task import Batch, Example, Prediction, Progress, Role
from pefttools.tasks.text.text_head import TextStatesTask, pooling_of
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.heads.served import ServedHead
    from pefttools.tasks.model import Model

_A_RANDOM_ORDER = "a random order"


class SentenceEmbedding(TextStatesTask[SentenceEmbeddingConfig]):
    """Columns `text`, and either `positive` (with it, optionally, `negative`) or `label`.

    The loss contrasts each text's positive with the other texts of the batch.
    """

    name = "sentence-embedding"
    summary = "a vector for a text, to find texts that belong together"
    config = SentenceEmbeddingConfig
    roles = {  # noqa: RUF012
        "text": Role("text"),
        "positive": Role("text", required=False, is_input=False),
        "negative": Role("texts", required=False, is_input=False),
        "label": Role("label", required=False, is_input=False),
    }
    peft_task_type = "FEATURE_EXTRACTION"
    embeds = True
    loss_over_batch = True
    named_metrics = {"ndcg": NDCG, "recall": Recall, "mrr": MRR, "hit_rate": HitRate}  # noqa: RUF012

    def usual_metrics(self) -> list[Metric]:
        return [NDCG(10), *(Recall(k) for k in (1, 5, 10)), MRR(10), HitRate(1)]

    def head_kind(self, base: Base) -> str:
        kind = pooling_of(base) if self.options.head == "auto" else self.options.head
        return "mean" if kind == "model" else kind

    @property
    def why_no_head(self) -> str | None:
        return None if self.options.projection else "there is none to train unless task.projection=true adds a layer"

    def own_head(self, kind: str, hidden: int, labels: Sequence[str]) -> nn.Module:
        from pefttools.heads.embedding import EmbeddingHead

        return EmbeddingHead(kind, hidden, projection=self.options.projection)

    def served_head(
        self, kind: str, state: Mapping[str, torch.Tensor], labels: Sequence[str], like: torch.Tensor
    ) -> ServedHead:
        from pefttools.heads.embedding import ServedEmbedding

        return ServedEmbedding(kind, state, like)

    def labels(self, train: Table) -> list[str]:
        return []

    def strata(self, row: Row) -> Hashable | None:
        if row.get("label") is None or row.get("positive") is not None:
            return None
        try:
            return label_text(row["label"])
        except DataError:
            return str(row["label"])  # refused by `check`, which names the row

    def idle_options(self, processor: Any, train: Table) -> list[str]:
        if self.options.symmetric and form_of(train, self.options.form) == "labels":
            return ["task.symmetric has no effect: texts of one label find each other in both directions"]
        return []

    def data_notes(self, tables: Mapping[str, Table], labels: Sequence[str]) -> list[str]:
        return group_notes(tables) if form_of(tables["train"], self.options.form) == "labels" else pair_notes(tables)

    def identity(self, row: Row) -> Hashable:
        return str(row["text"])

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        form = form_of(table, self.options.form) if labelled else None
        for index, row in enumerate(table.rows):
            check_text(table, index, "text", row)
            if form == "pairs":
                check_pair(table, index, row)
        if form == "labels":
            check_labels(table)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        learned = labelled and bool({"positive", "label"} & table.columns.keys())
        form = form_of(table, self.options.form) if learned else None
        return encoded(table, form, tokenizer, self.options.max_length)

    def size(self, example: Example) -> int:
        return int(example["size"]) if "size" in example else len(example["input_ids"])

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        if isinstance(examples, MappedItems) and "size" in examples.names:
            return examples.numbers("size")
        return [self.size(example) for example in examples]

    def kept_together(self, example: Example) -> Hashable | None:
        return example.get("label")

    def kept_apart(self, example: Example) -> Hashable | None:
        known = Known.of(example)
        return known.others[0] if known is not None and known.others else None

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        return collated(examples, tokenizer, self.options.negatives)

    def passes(self, batch: Batch) -> list[Batch]:
        return split(batch)

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Embeddings of the texts, and after them those of all others: ``[texts + others, size]``."""
        import torch

        return torch.cat([super(SentenceEmbedding, self).logits(transformer, head, one) for one in self.passes(batch)])

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        import torch

        from pefttools.tasks.embedding.contrast import contrast

        rows = len(labels)
        others = logits[rows:] if len(logits) > rows else logits
        with torch.autocast(logits.device.type, enabled=False):
            scores = logits[:rows] @ others.T / self.options.temperature
            loss = contrast(scores, labels)
            if self.options.symmetric and len(logits) > rows:
                loss = (loss + contrast(scores[:, :rows].T, labels[:, :rows].T)) / 2
        return loss

    def evaluation_pass(self, model: Model, batch: Batch) -> Any:
        return model.run_batch(split(batch)[0])

    def predict(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[Prediction]:
        """Each different text is embedded once, so that equal texts have equal embeddings."""
        from pefttools.tasks.batches import in_order_of_size

        places: dict[tuple[int, ...], int] = {}
        wanted = []
        for example in examples:
            own = [example["input_ids"], *others_of(example)]
            wanted.append([places.setdefault(tuple(one), len(places)) for one in own])

        def run(batch: list[Example]) -> list[array[float]]:
            return [as_array(row) for row in model.run(batch).float().cpu()]

        texts: list[Example] = [{"input_ids": list(one)} for one in places]
        found = in_order_of_size(texts, [len(one) for one in places], batch_size, run, progress)
        return [
            EmbeddingPrediction(found[own[0]], Known.of(example), [found[place] for place in own[1:]])
            for own, example in zip(wanted, examples, strict=True)
        ]

    def finish(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Rank the candidates of each text, if they are known."""
        import numpy as np

        from pefttools.metrics.ranking import rank

        given = [one for one in predictions if isinstance(one, EmbeddingPrediction)]
        rows = [one.known for one in given if one.known is not None]
        if not rows or len(rows) < len(predictions):
            return predictions
        candidates = Candidates.of(rows)
        texts = np.array([one.answer for one in given], dtype=np.float32)
        others = texts
        if rows[0].others:
            others = np.array([given[row].others[place] for row, place in candidates.first], dtype=np.float32)
        depth = max(one.k or 1 for one in self.metrics if isinstance(one, RetrievalMetric))
        placed = rank(texts, others, candidates.relevant, candidates.left_out, depth)
        return [
            replace(
                one, others=(), ranking=found.ranking,
                nearest=candidates.texts[found.nearest] if found.nearest >= 0 else None,
            )
            for one, found in zip(given, placed, strict=True)
        ]  # fmt: skip

    def reference(self, example: Example, labels: Sequence[str]) -> Known:
        known = Known.of(example)
        assert known is not None, "an example of labelled rows"
        return known

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> EmbeddingPrediction:
        return EmbeddingPrediction(as_array(logits))

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        """What a random order of the candidates gives on average."""
        candidates = Candidates.of(references)
        found: list[Prediction] = []
        for right, without in zip(candidates.relevant, candidates.left_out, strict=True):
            relevant = len(set(right.tolist()) - set(without.tolist()))
            chance = ByChance(relevant, len(candidates.texts) - len(without))
            found.append(EmbeddingPrediction(_A_RANDOM_ORDER, ranking=chance))
        return found

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        """A text, with as many others as the options say: for pairs a positive, and negatives if set."""
        text = [1] * length
        example: Example = {"input_ids": text, "attention_mask": text, "size": length, "text": ""}
        count = self._planned_others
        if not count:
            return {**example, "label": ""}
        others = {"other_ids": text * count, "other_sizes": [length] * count}
        return {**example, **others, "others": json.dumps([""] * count)}

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        return planned(len(sizes), max(sizes), self._planned_others)

    @property
    def _planned_others(self) -> int:
        """Other texts of a planned row."""
        return 0 if self.options.form == "labels" else 1 + (self.options.negatives or 0)

    def why_not_merged(self, kind: str, format: str) -> str | None:
        if format == "transformers" and self.options.projection:
            return "transformers has no place for its projection; --format sentence-transformers has"
        return None
