"""Retrieval between pictures and texts: each picture should be nearest to its own text, and each text to its picture.

References:
    Radford, A. et al. (2021). Learning transferable visual models from natural language supervision. ICML.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import DataError
from pefttools.metrics import Metric
from pefttools.metrics.cross_modal import DIRECTIONS, DirectedHitRate, DirectedMRR, DirectedRecall, Direction
from pefttools.metrics.ranking import ByChance
from pefttools.metrics.retrieval import RetrievalMetric
from pefttools.tasks.embedding.embedding_prediction import as_array
from pefttools.tasks.number_format import in_format
from pefttools.tasks.task import Batch, Example, Prediction, Progress, Role, TextTaskConfig
from pefttools.tasks.text.texts import check_text, uncut
from pefttools.tasks.vision.image_text import ImageTextInputs, ImageTextTask
from pefttools.tasks.vision.image_text_rows import ImageTextPrediction, Pair, Sides, picture_key, prediction
from pefttools.tasks.vision.picture_task import PIXELS, check_image, pixels, planned_pixels

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.tasks.model import Model

_A_RANDOM_ORDER = "a random order"


class ImageTextRetrieval(ImageTextTask[TextTaskConfig]):
    """Columns `image` and `text`. The loss is CLIP's, in both directions, with the base's own factor."""

    name = "image-text-retrieval"
    summary = "vectors for pictures and texts, to find one by the other"
    config = TextTaskConfig
    roles = {"image": Role("image", required=False), "text": Role("text", required=False)}  # noqa: RUF012
    embeds = True
    loss_over_batch = True
    sized_by = "input_ids"
    self_supervised = True
    named_metrics = {  # noqa: RUF012
        "recall": DirectedRecall, "hit_rate": DirectedHitRate, "mrr": DirectedMRR,
    }  # fmt: skip

    def usual_metrics(self) -> list[Metric]:
        of_each = [(k, direction) for direction in DIRECTIONS for k in (1, 5, 10)]
        return [
            *(DirectedHitRate(k, direction) for k, direction in of_each),
            *(DirectedRecall(k, direction) for k, direction in of_each),
            *(DirectedMRR(10, direction) for direction in DIRECTIONS),
        ]

    def labels(self, train: Table) -> list[str]:
        return []

    def check_roles(self, given: Collection[str], trained: Collection[str]) -> None:
        """A row may have a picture, a text or both."""

    def identity(self, row: Row) -> Hashable:
        return picture_key(row.get("image")), str(row.get("text"))

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        if lacking := [role for role in self.roles if labelled and role not in table.columns]:
            raise DataError(
                f"{table.source}: there is no column for {lacking[0]!r}",
                hint=f"Name it in data.columns: {{{lacking[0]}: COLUMN}}.",
            )
        for index, row in enumerate(table.rows):
            if labelled or row.get("image") is not None:
                check_image(table, index, row, whole=not labelled)
            elif row.get("text") is None:
                raise table.error(index, "image", "the row has neither a picture nor a text")
            if labelled or row.get("text") is not None:
                check_text(table, index, "text", row)

    def data_notes(self, tables: Mapping[str, Table], labels: Sequence[str]) -> list[str]:
        notes: list[str] = []
        seen: dict[str, set[str]] = {}
        for split, table in tables.items():
            found = {picture_key(table.resolved(index, row["image"])) for index, row in enumerate(table.rows)}
            for other, earlier in seen.items():
                if shared := len(found & earlier):
                    notes.append(f"{split}: {shared:,} of {len(found):,} different pictures are also in {other}")
            seen[split] = found
        return notes

    def encode(
        self, table: Table, processor: ImageTextInputs, labels: Sequence[str], *, labelled: bool = True
    ) -> list[Example]:
        examples = []
        for index, row in enumerate(table.rows):
            example: Example = {"length": 1}
            if row.get("image") is not None:
                example |= {"image": table.resolved(index, row["image"]), "where": table.place(index, "image")}
            if row.get("text") is not None:
                example |= self._text(row["text"], processor.tokenizer)
            examples.append(example)
        return examples

    def _text(self, text: str, tokenizer: Any) -> Example:
        limit = self.options.max_length
        ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        return {"text": text, "input_ids": ids, "length": uncut(len(ids), limit, tokenizer, text)}

    def size(self, example: Example) -> int:
        return len(example["input_ids"]) if "input_ids" in example else 1

    def collate(self, examples: Sequence[Example], processor: ImageTextInputs) -> Batch:
        """Pictures, texts, or both with ``labels``: what each text is to each picture, see `tasks.contrast`."""
        from pefttools.tasks.embedding.contrast import of_pairs

        batch = self.input_batch(examples, processor)
        if PIXELS not in batch or "input_ids" not in batch:
            return batch
        pairs = [Pair.of(one) for one in examples]
        labels = of_pairs([pair.picture for pair in pairs], [pair.text for pair in pairs], [])
        return {**batch, "labels": labels}

    def input_batch(self, examples: Sequence[Example], processor: ImageTextInputs) -> Batch:
        batch: Batch = {}
        if "image" in examples[0]:
            batch |= pixels([(one["image"], one["where"]) for one in examples], processor.pictures)
        if "input_ids" in examples[0]:
            batch |= processor.texts([one["input_ids"] for one in examples])
        return batch

    def passes(self, batch: Batch) -> list[Batch]:
        pictures = {name: one for name, one in batch.items() if name == PIXELS}
        texts = {name: one for name, one in batch.items() if name not in (PIXELS, "labels")}
        return [one for one in (pictures, texts) if one]

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Vectors of the pictures, whose length is the base's factor, then those of the texts, of length 1."""
        import torch

        found, model = [], transformer
        for one in self.passes(batch):
            if PIXELS in one:
                output = model.get_image_features(pixel_values=in_format(model, one[PIXELS]))  # type: ignore[operator]
            else:
                output = model.get_text_features(**one)  # type: ignore[operator]
            vectors = torch.nn.functional.normalize(output.pooler_output.float(), dim=-1)
            found.append(vectors * model.logit_scale.exp() if PIXELS in one else vectors)  # type: ignore[operator]
        return torch.cat(found)

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        import torch

        from pefttools.tasks.embedding.contrast import contrast

        rows = len(labels)
        with torch.autocast(logits.device.type, enabled=False):
            scores = logits[:rows] @ logits[rows:].T
            return (contrast(scores, labels) + contrast(scores.T, labels.T)) / 2

    def evaluation_pass(self, model: Model, batch: Batch) -> Any:
        return [model.run_batch(one) for one in self.passes(batch)]

    def predict(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[Prediction]:
        """Each different picture and each different text goes through the model once."""
        from pefttools.tasks.batches import in_order_of_size

        def run(batch: list[Example]) -> list[array[float]]:
            import torch

            return [as_array(row) for row in torch.nn.functional.normalize(model.run(batch).float().cpu(), dim=-1)]

        pictures = {
            picture_key(one["image"]): {"image": one["image"], "where": one["where"]}
            for one in examples
            if "image" in one
        }
        texts = {one["text"]: {"input_ids": one["input_ids"]} for one in examples if "text" in one}
        seen = dict(
            zip(pictures, in_order_of_size(list(pictures.values()), [1] * len(pictures), batch_size, run, progress),
                strict=True)
        )  # fmt: skip
        sizes = [len(one["input_ids"]) for one in texts.values()]
        read = dict(zip(texts, in_order_of_size(list(texts.values()), sizes, batch_size, run, None), strict=True))
        return [
            prediction(
                seen.get(picture_key(one["image"])) if "image" in one else None,
                read[one["text"]] if "text" in one else None,
                Pair.of(one) if "image" in one and "text" in one else None,
            )
            for one in examples
        ]

    def finish(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Rank the candidates of each row in both directions, if all rows have a picture and a text."""
        import numpy as np

        from pefttools.metrics.ranking import rank

        given = [one for one in predictions if isinstance(one, ImageTextPrediction) and one.pair is not None]
        if not given or len(given) < len(predictions):
            return predictions
        pairs = [one.pair for one in given if one.pair is not None]
        vectors = {
            "image_to_text": np.array([one.answer for one in given], dtype=np.float32),
            "text_to_image": np.array([one.text for one in given], dtype=np.float32),
        }
        depth = max(one.k or 1 for one in self.metrics if isinstance(one, RetrievalMetric))
        nothing = np.array([], dtype=np.int64)
        placed: dict[Direction, dict[int, Any]] = {}
        for direction, other in zip(DIRECTIONS, reversed(DIRECTIONS), strict=True):
            sides = Sides.of(pairs, direction)
            candidates = vectors[other][list(sides.first)]
            found = rank(vectors[direction], candidates, sides.relevant, [nothing] * len(given), depth)
            placed[direction] = {index: found[index].ranking for index in sides.queries}
            if direction == "image_to_text":
                nearest = [pairs[sides.first[one.nearest]].text for one in found]
        return [
            replace(
                one, text=None, nearest=nearest[index],
                rankings={direction: own[index] for direction, own in placed.items() if index in own},
            )
            for index, one in enumerate(given)
        ]  # fmt: skip

    def reference(self, example: Example, labels: Sequence[str]) -> Pair:
        return Pair.of(example)

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction]:
        """What a random order of the candidates gives on average."""
        chances: list[dict[Any, ByChance]] = [{} for _ in references]
        for direction in DIRECTIONS:
            sides = Sides.of(references, direction)
            for index in sides.queries:
                chances[index][direction] = ByChance(len(sides.relevant[index]), len(sides.first))
        return [ImageTextPrediction(_A_RANDOM_ORDER, rankings=found) for found in chances]

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"image": "", "where": "", "text": "", "input_ids": [1] * length, "length": length}

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        import torch

        from pefttools.sites import transformers_models

        config = transformers_models(model.transformer)[0].config
        texts = model.processor.texts([[1] * max(sizes)] * len(sizes))
        labels = torch.zeros(len(sizes), len(sizes), dtype=torch.long)
        return {**planned_pixels(config.vision_config, len(sizes)), **texts, "labels": labels}
