"""Metrics of how much an answer overlaps with a reference: predictions have a text as ``answer``; references are texts.

The numbers are those of the libraries that define them, sacrebleu and rouge-score.

References:
    Papineni, K., Roukos, S., Ward, T. and Zhu, W.-J. (2002). BLEU. ACL.
    Popović, M. (2015). chrF: character n-gram F-score for automatic MT evaluation. WMT.
    Post, M. (2018). A call for clarity in reporting BLEU scores. WMT (sacrebleu).
    Lin, C.-Y. (2004). ROUGE: a package for automatic evaluation of summaries. Text Summarization Branches Out.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from pefttools.errors import ConfigError
from pefttools.metrics.additive import AdditiveMetric, MeanMetric
from pefttools.metrics.library import OfLibrary
from pefttools.metrics.metric import Measure

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

_POINTS = Measure("points", True, (0.0, 100.0), 1.0)


class _OfCorpus(OfLibrary, AdditiveMetric):
    """A number of sacrebleu, from 0 to 100, from the counts of all rows together. Each row has one reference."""

    measure = _POINTS
    package = "sacrebleu"

    @abstractmethod
    def _number(self, counts: list[Any]) -> float:
        """The number of summed counts."""

    @property
    def signature(self) -> str:
        """What sacrebleu calls these options and its version, to be quoted with the number."""
        self._library.num_refs = 1
        return str(self._library.get_signature())

    def contribution(self, prediction: Any, reference: Any) -> list[float]:
        (counts,) = self._library._extract_corpus_statistics([prediction.answer], [[reference]])
        return list(map(float, counts))

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        found: Numbers = np.apply_along_axis(lambda counts: self._number([int(one) for one in counts]), -1, total)
        return found


class BLEU(_OfCorpus):
    """N-gram precision with a penalty for short answers.

    Args:
        tokenize: how sacrebleu splits texts into words; those of its tokenizers that need nothing else.
        lowercase: whether texts are lowercased.
    """

    name = "bleu"

    def __init__(self, tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a", lowercase: bool = False) -> None:
        if tokenize not in ("13a", "intl", "zh", "char", "none"):
            raise ConfigError(
                f"the metric 'bleu': the tokenizer {tokenize!r} is not known, or needs further files",
                hint="Choose one of 13a, intl, zh, char, none.",
            )
        self._options: dict[str, Any] = {"tokenize": tokenize, "lowercase": lowercase}

    def _made(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU as Library

        # Answers may well be tokenized texts: that is up to the caller.
        return Library(**self._options, force=True)

    def _number(self, counts: list[Any]) -> float:
        return float(self._library._compute_score_from_stats(counts).score)


class ChrF(_OfCorpus):
    """F-score of character n-grams.

    Args:
        word_order: maximum length of the n-grams of words that count too; 2 is chrF++.
        lowercase: whether texts are lowercased.
    """

    name = "chrf"

    def __init__(self, word_order: int = 0, lowercase: bool = False) -> None:
        self._options: dict[str, Any] = {"word_order": word_order, "lowercase": lowercase}

    def _made(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF as Library

        return Library(**self._options)

    def _number(self, counts: list[Any]) -> float:
        return float(self._library._compute_score_from_stats(counts).score)


class ROUGE(OfLibrary, MeanMetric):
    """Mean over the rows of an F-score, as rouge-score gives it.

    Args:
        type: rouge1 and rouge2, of words and of pairs of words; rougeL, of the longest common subsequence; rougeLsum,
            of the same by lines.
        stemmer: whether words are compared by their English stems.
    """

    measure = Measure.share()
    package = "rouge-score"

    def __init__(
        self, type: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL", stemmer: bool = False
    ) -> None:
        self.name = type
        self._stemmer = stemmer

    def _made(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer([self.name], use_stemmer=self._stemmer)

    def number(self, prediction: Any, reference: Any) -> float:
        return float(self._library.score(reference, prediction.answer)[self.name].fmeasure)
