"""Metrics of tags, one per word: predictions have them as ``answer``, a list of names; references are such lists.

References:
    Ramshaw, L. and Marcus, M. (1995). Text chunking using transformation-based learning. Very Large Corpora Workshop
        (tags that begin with B, I and O).
    Tjong Kim Sang, E. and De Meulder, F. (2003). Introduction to the CoNLL-2003 shared task. CoNLL (entities found
        whole, of the right type).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pefttools.metrics.additive import AdditiveMetric
from pefttools.metrics.metric import Measure
from pefttools.metrics.ratios import Kind, ratio

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

#: type, first word, last word
Entity = tuple[str, int, int]


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of a sentence, as conlleval and seqeval read them.

    A tag is ``O``, or ``B-TYPE`` for an entity's first word and ``I-TYPE`` for the others (also ``E-`` and ``S-`` for
    a last and an only word). An ``I-`` without a beginning, as in tags that mark no beginnings, begins an entity.
    """
    begin, kind, mark = 0, "", "O"
    for place, tag in enumerate([*tags, "O"]):
        new, _, new_kind = tag.partition("-")
        new_kind = new_kind or "_"
        if mark != "O" and (mark in ("E", "S") or new in ("B", "S", "O") or new_kind != kind):
            yield kind, begin, place - 1
            mark = "O"
        if new != "O" and (mark in ("O", "E", "S") or new in ("B", "S") or new_kind != kind):
            begin = place
        mark, kind = new, new_kind


class _OfEntities(AdditiveMetric):
    """A function of how many entities were found whole, how many were invented, and how many were missed."""

    measure = Measure.share()
    kind: ClassVar[Kind]

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float, float]:
        given, true = set(entities(prediction.answer)), set(entities(reference))
        right = len(given & true)
        return float(right), float(len(given) - right), float(len(true) - right)

    def value(self, total: Numbers) -> Numbers:
        return ratio(self.kind, total[..., 0], total[..., 1], total[..., 2])


class EntityF1(_OfEntities):
    """Harmonic mean of the entities' precision and recall."""

    name, kind = "entity_f1", "f1"


class EntityPrecision(_OfEntities):
    """Share of the predicted entities that are right."""

    name, kind = "entity_precision", "precision"


class EntityRecall(_OfEntities):
    """Share of the true entities that were found."""

    name, kind = "entity_recall", "recall"


class TagAccuracy(AdditiveMetric):
    """Share of words with the right tag."""

    name, measure = "accuracy", Measure.share()

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        pairs = zip(prediction.answer, reference, strict=True)
        return float(sum(given == true for given, true in pairs)), float(len(reference))

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        return total[..., 0] / np.maximum(total[..., 1], 1)
