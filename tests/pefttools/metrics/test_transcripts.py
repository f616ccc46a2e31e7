"""Error rates are jiwer's, of all rows together."""

from __future__ import annotations

from importlib.metadata import version

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttools.errors import ConfigError
from pefttools.metrics.transcripts import CER, WER
from pefttools.tasks.language.generation import TextPrediction

TEXT = st.lists(st.sampled_from(["the", "Cat,", "sat", "on", "mats.", "a"]), max_size=7).map(" ".join)
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=6).filter(lambda rows: any(one for _, one in rows))


def _split(rows: list[tuple[str, str]]) -> tuple[list[TextPrediction], list[str]]:
    return [TextPrediction(answer) for answer, _ in rows], [reference for _, reference in rows]


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_they_are_jiwers(rows: list[tuple[str, str]]) -> None:
    """With empty references too, which add what was put in."""
    answers, references = [answer for answer, _ in rows], [reference for _, reference in rows]
    words, characters = WER("none"), CER("none")
    assert words.compute(*_split(rows)) == pytest.approx(jiwer.wer(references, answers), abs=1e-12)
    assert characters.compute(*_split(rows)) == pytest.approx(jiwer.cer(references, answers), abs=1e-12)


def test_texts_are_made_plain_first() -> None:
    rows = [("hello world", "Hello, World!")]
    assert WER().compute(*_split(rows)) == 0.0
    assert WER("none").compute(*_split(rows)) == 1.0
    assert WER().signature == f"normalize:basic|jiwer:{version('jiwer')}"
    with pytest.raises(ConfigError, match="normalize must be basic or none"):
        WER("english")  # type: ignore[arg-type]
