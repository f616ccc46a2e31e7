"""Error rates of transcripts: predictions have a text as ``answer``; references are texts.

The counts are those of jiwer: the fewest words, or characters, to substitute, delete and insert. A row whose reference
is empty has nothing to divide by, and adds its insertions to the errors.

References:
    Morris, A., Maier, V. and Green, P. (2004). From WER and RIL to MER and WIL: improved evaluation measures for
        connected speech recognition. Interspeech.
    Radford, A. et al. (2023). Robust speech recognition via large-scale weak supervision. ICML (the basic normalizer).
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pefttools.errors import ConfigError
from pefttools.metrics.additive import AdditiveMetric
from pefttools.metrics.library import OfLibrary
from pefttools.metrics.metric import MARGIN_OF_SHARES, Measure

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers


class _ErrorRate(OfLibrary, AdditiveMetric):
    """Errors of all rows divided by the length of all references.

    Args:
        normalize: basic: lowercase, with punctuation replaced by spaces, as by Whisper's basic normalizer; none: texts
            are compared as they are.
    """

    measure = Measure("%", False, (0.0, None), MARGIN_OF_SHARES)
    package = "jiwer"

    def __init__(self, normalize: Literal["basic", "none"] = "basic") -> None:
        if normalize not in ("basic", "none"):
            raise ConfigError(f"the metric {self.name!r}: normalize must be basic or none, not {normalize!r}")
        self._normalize = normalize

    @property
    def signature(self) -> str:
        from importlib.metadata import version

        return f"normalize:{self._normalize}|jiwer:{version('jiwer')}"

    def _made(self) -> Any:
        import jiwer

        return jiwer

    @cached_property
    def _normalizer(self) -> Any:
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return BasicTextNormalizer()

    @abstractmethod
    def _compared(self, reference: str, answer: str) -> Any:
        """The counts of jiwer."""

    def normal(self, text: str) -> str:
        """A text as it is compared."""
        return str(self._normalizer(text)).strip() if self._normalize == "basic" else text

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        found = self._compared(self.normal(reference), self.normal(prediction.answer))
        errors = found.substitutions + found.deletions + found.insertions
        return float(errors), float(found.hits + found.substitutions + found.deletions)

    def value(self, total: Numbers) -> Numbers:
        import numpy as np

        return total[..., 0] / np.maximum(total[..., 1], 1)


class WER(_ErrorRate):
    """Word error rate."""

    name = "wer"

    def _compared(self, reference: str, answer: str) -> Any:
        return self._library.process_words([reference], [answer])


class CER(_ErrorRate):
    """Character error rate."""

    name = "cer"

    def _compared(self, reference: str, answer: str) -> Any:
        return self._library.process_characters([reference], [answer])
