"""Classification of a text, or of a pair of texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, cast

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.data.labels import label_text
from pefttools.errors import ConfigError, DataError
from pefttools.methods import Target
from pefttools.tasks.batches import in_length_order
from pefttools.tasks.class_config import ClassificationConfig
from pefttools.tasks.class_labels import check_label, label_names, read_label
from pefttools.tasks.task import Batch, Built, Evaluation, Example, Progress, Task
from pefttools.tasks.texts import check_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.metrics import NamedMetric
    from pefttools.tuned import TunedModel

#: of an example, what is not an input of the model
_NOT_INPUTS = ("labels", "length")


class SequenceClassification(Task[ClassificationConfig]):
    """One label per row; columns `text`, optionally `pair`, and `label`."""

    name = "sequence-classification"
    summary = "one label for a text or a pair of texts"
    config = ClassificationConfig
    roles = {"text": True, "pair": False, "label": True}  # noqa: RUF012
    inputs = frozenset({"text", "pair"})
    auto_class = "AutoModelForSequenceClassification"
    primary_metric = "accuracy"
    measured = MappingProxyType(
        {
            "accuracy": True,
            **{
                f"{name}_{average}": True for name in ("precision", "recall", "f1") for average in ("macro", "weighted")
            },
            "loss": False,
        }
    )
    brought = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "matthews_correlation")

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__(config)
        #: factors of the loss in the order of the labels; None: all 1, or not worked out yet
        self._weights: list[float] | None = None

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        given = self.options.class_weights
        if given is None:
            return self
        if given == "balanced":
            counts = Counter(map(label_text, train.column("label")))
            present = sum(label in counts for label in labels)
            # A label without a training row weighs nothing in any case.
            given = {label: len(train) / (present * counts[label]) if counts[label] else 1.0 for label in labels}
        if unlike := sorted(given.keys() ^ set(labels)):
            known = "has no weight" if unlike[0] in labels else "is not a label of the training rows"
            raise ConfigError(
                f"task.class_weights: {unlike[0]!r} {known}", hint=f"The labels are: {', '.join(labels[:30])}."
            )
        task = type(self)(self.options.model_copy(update={"class_weights": {label: given[label] for label in labels}}))
        task._weights = [given[label] for label in labels]
        return task

    def planned(self) -> Self:
        return type(self)(self.options.model_copy(update={"class_weights": None}))

    def chance(self, examples: Sequence[Example]) -> dict[str, float]:
        from pefttools.tasks.metrics import classification_metrics

        references = [int(example["labels"]) for example in examples]
        counts = Counter(references)
        most = max(sorted(counts), key=counts.__getitem__)
        shares = [count / len(references) for count in counts.values()]
        metrics = classification_metrics([most] * len(references), references)
        return {**metrics, "loss": -sum(share * _log(share) for share in shares)}

    def labels(self, train: Table) -> list[str]:
        return label_names(train, self.options.labels)

    def strata(self, row: Row) -> Hashable | None:
        try:
            return label_text(row["label"])
        except DataError:
            return str(row["label"])  # refused by `check`, which names the row

    def is_known(self, table: Table, index: int, labels: Collection[str]) -> bool:
        return read_label(table, index, table.rows[index]["label"]) in labels

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        known = {label_text(label) or label for label in labels}
        given = ["text", *(role for role in ("pair",) if role in table.columns)]
        for index, row in enumerate(table.rows):
            for role in given:
                check_text(table, index, role, row)
            if labelled:
                check_label(table, index, row["label"], known)

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> Built:
        from transformers import AutoModel, AutoModelForSequenceClassification

        from pefttools.bases.loading import load_tokenizer, load_transformer
        from pefttools.tasks.heads import PoolingHead
        from pefttools.tasks.padding import pad_with, show_the_last_token

        kind = head_kind or self.options.head
        if kind == "auto":
            kind = _head_of(base)
        tokenizer = load_tokenizer(base)
        if kind != "model":
            transformer, missing = load_transformer(AutoModel, base, variant)
            if missing:
                raise ConfigError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(missing[:3])}")
            head = PoolingHead(kind, transformer.config.hidden_size, len(labels))  # type: ignore[union-attr,arg-type]
            return Built(transformer, head, kind, Target(self.name, "FEATURE_EXTRACTION"), tokenizer)
        transformer, missing = load_transformer(
            AutoModelForSequenceClassification,
            base,
            variant,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
        pad_with(transformer, tokenizer.pad_token_id)
        show_the_last_token(transformer)
        heads = own_head_modules(transformer, missing)
        return Built(transformer, None, kind, Target(self.name, "SEQ_CLS", heads), tokenizer)

    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        pairs = table.column("pair") if "pair" in table.columns else None
        texts = table.column("text")
        encoded = tokenizer(texts, pairs, truncation=True, max_length=self.options.max_length)
        # Without pairs all token types are the same, and several methods can't pass them on.
        names = [name for name in encoded if name != "token_type_ids" or pairs is not None]
        examples: list[Example] = [{name: encoded[name][index] for name in names} for index in range(len(table))]
        for index, example in enumerate(examples):
            example["length"] = len(example["input_ids"])
            if example["length"] == self.options.max_length:  # as long as that, or longer
                pair = None if pairs is None else pairs[index]
                example["length"] = len(tokenizer(texts[index], pair, verbose=False)["input_ids"])
        if labelled and "label" in table.columns:
            numbers = {label_text(label): index for index, label in enumerate(labels)}
            for example, label in zip(examples, table.column("label"), strict=True):
                example["labels"] = numbers[label_text(label) or ""]
        return examples

    def planned_example(self, length: int) -> Example:
        return {"input_ids": [1] * length, "attention_mask": [1] * length, "labels": 0}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        import torch

        features = [{key: value for key, value in example.items() if key not in _NOT_INPUTS} for example in examples]
        batch: Batch = dict(tokenizer.pad(features, padding_side="right", return_tensors="pt"))
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        from pefttools.tasks.padding import padded_on_the_right

        batch = padded_on_the_right(batch)
        outputs = transformer(**batch)
        if head is None:
            return cast("torch.Tensor", outputs.logits)
        # Methods that put virtual tokens before the input give states for them too.
        states = outputs.last_hidden_state[:, -batch["attention_mask"].shape[1] :]
        return cast("torch.Tensor", head(states, batch["attention_mask"]))

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        weights = None
        if self.options.class_weights is not None:
            if self._weights is None:
                raise ConfigError(
                    "task.class_weights: they are worked out from a recipe's training rows, and there is none",
                    hint="In a training loop of your own, weigh the loss of the logits yourself.",
                )
            weights = torch.tensor(self._weights, device=logits.device)
        total = cross_entropy(
            logits.float(), labels, weights, reduction="sum", label_smoothing=self.options.label_smoothing
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def load_metrics(self, labels: Sequence[str]) -> list[NamedMetric]:
        from pefttools.tasks.metrics import class_metrics, load_metrics

        return load_metrics(self.options.metrics, class_metrics(), range(len(labels)))

    def evaluate(
        self,
        model: TunedModel,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
    ) -> Evaluation:
        from pefttools.tasks.metrics import classification_metrics

        scores = self._scores(model, examples, batch_size, progress)
        references = [int(example["labels"]) for example in examples]
        predictions = [max(range(len(row)), key=row.__getitem__) for row in scores]
        metrics = classification_metrics(predictions, references)
        losses = [-_log(row[reference]) for row, reference in zip(scores, references, strict=True)]
        metrics["loss"] = sum(losses) / len(losses)
        for metric in self.load_metrics(model.labels):
            metrics.update(metric.compute(predictions, references))
        entries = [
            {
                "prediction": model.labels[prediction],
                "reference": model.labels[reference],
                "correct": prediction == reference,
                "score": round(row[prediction], 6),
            }
            for row, prediction, reference in zip(scores, predictions, references, strict=True)
        ]
        return Evaluation(metrics, entries)

    def predict(
        self,
        model: TunedModel,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
        all_scores: bool = False,
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for row in self._scores(model, examples, batch_size, progress):
            best = max(range(len(row)), key=row.__getitem__)
            found.append({"prediction": model.labels[best], "score": round(row[best], 6)})
            if all_scores:
                rounded = (round(score, 6) for score in row)
                found[-1]["scores"] = dict(zip(model.labels, rounded, strict=True))
        return found

    def _scores(
        self, model: TunedModel, examples: Sequence[Example], batch_size: int, progress: Progress | None
    ) -> list[list[float]]:
        """Class probabilities, one list per example."""

        def run(batch: list[Example]) -> list[list[float]]:
            inputs = [{key: value for key, value in example.items() if key not in _NOT_INPUTS} for example in batch]
            probabilities: list[list[float]] = model.run(inputs).float().softmax(-1).tolist()
            return probabilities

        return in_length_order(examples, batch_size, run, progress)


def _log(probability: float) -> float:
    import math

    return math.log(max(probability, 1e-30))


def _head_of(base: Base) -> str:
    """The head that the base's own files ask for: sentence-transformers says how it pools."""
    pooling = base.folder / "1_Pooling" / "config.json"
    if (base.folder / "modules.json").is_file() and pooling.is_file():
        config = json.loads(pooling.read_text(encoding="utf-8"))
        for key, kind in (("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")):
            if config.get(f"pooling_mode_{key}") or config.get("pooling_mode") == kind:
                return kind
    return "model"


def own_head_modules(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Modules outside the backbone, and any other that the base's files held no weights for."""
    backbone = getattr(model, "base_model_prefix", "")
    heads = [
        name
        for name, child in model.named_children()
        if name != backbone and next(child.parameters(), None) is not None
    ]
    fresh = {parameter.rpartition(".")[0] for parameter in missing}
    heads += sorted(name for name in fresh if not any(f"{name}.".startswith(f"{head}.") for head in heads))
    return tuple(heads)
