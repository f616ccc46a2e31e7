"""Speech recognition: what is learned, and what is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import BaseModelError, ConfigError
from pefttools.tasks.task import IGNORE
from pefttools.testing.rows import table_of_rows
from tests.pefttools.tasks.samples import SAMPLES

OPTIONS, ROWS = SAMPLES["speech-recognition"]
TASK = {"name": "speech-recognition", **OPTIONS}


def _model(base: str, method: Any = "untuned", **options: Any) -> pefttools.TunedModel:
    return pefttools.wrap(base, method, task=TASK | options, precision="float32")


def _batch(model: pefttools.TunedModel, count: int) -> dict[str, torch.Tensor]:
    task = model.spec.task
    return task.collate(task.encode(table_of_rows(ROWS[:count], task), model.processor, []), model.processor)


def test_the_loss_is_that_of_transformers(tiny_whisper: str) -> None:
    model = _model(tiny_whisper)
    batch = _batch(model, 4)
    labels = batch.pop("labels")
    with model.inference_mode():
        ours = float(model(**batch, targets=labels))
        theirs = float(model.transformer(input_features=batch["input_features"], labels=labels).loss)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_tokens_that_every_text_begins_with_are_read_and_not_learned(
    tiny_whisper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Whisper's tokenizer writes them: [start, language, task] text [end]."""
    model = _model(tiny_whisper)
    tokenizer = model.tokenizer
    plain = _batch(model, 2)
    begin = [101, 1000, 1001]
    tokenizer.prefix_tokens = begin
    call = type(tokenizer).__call__

    def with_prefix(own: Any, *args: Any, **kwargs: Any) -> Any:
        found = call(own, *args, **kwargs)
        if "text_target" in kwargs:
            found["input_ids"] = [*begin, *found["input_ids"][1:]]
        return found

    monkeypatch.setattr(type(tokenizer), "__call__", with_prefix)
    batch = _batch(model, 2)
    assert batch["decoder_input_ids"][:, 1:3].tolist() == [begin[1:]] * 2
    assert (batch["labels"][:, :2] == IGNORE).all()
    assert torch.equal(batch["labels"][:, 2:], plain["labels"][:, 1:]), "what is learned is the text, and its end"
    assert torch.equal(batch["decoder_input_ids"][:, 3:], plain["decoder_input_ids"][:, 2:])
    assert model.spec.task.opening(model.transformer.config, model.processor) == begin


def test_the_encoder_computes_no_more_than_the_longest_sound(tiny_whisper: str) -> None:
    short, whole = _model(tiny_whisper, max_seconds=0.5), _model(tiny_whisper)
    assert _batch(short, 2)["input_features"].shape[-1] == _batch(whole, 2)["input_features"].shape[-1] // 2
    assert short.transformer.model.encoder.embed_positions.weight.shape[0] == 25  # type: ignore[union-attr]


def test_a_language_that_a_tokenizer_does_not_know_is_refused(tiny_whisper: str) -> None:
    with pytest.raises(ConfigError, match=r"task\.language: the tokenizer"):
        _model(tiny_whisper, language="german")


def test_other_bases_are_refused(tiny_wav2vec2: str, tiny_t5: str) -> None:
    for base in (tiny_wav2vec2, tiny_t5):
        with pytest.raises((BaseModelError, ConfigError)):
            _model(base)
