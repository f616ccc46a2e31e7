"""Sounds as a model's input: Whisper's encoder alone, padding that nothing hears, and what is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, WhisperForConditionalGeneration

import pefttools
from pefttools.errors import BaseModelError, ConfigError, DataError
from pefttools.sites import transformers_models
from pefttools.tasks.cuts import cuts_of
from pefttools.testing import check_task
from pefttools.testing.rows import table_of_rows
from pefttools.tuned import TunedModel
from tests.conftest import save_wav2vec2
from tests.pefttools.tasks.samples import SAMPLES

_, ROWS = SAMPLES["audio-classification"]
LABELS = ["l0", "l1", "l2"]
RATE = 16_000


def _task(**options: Any) -> dict[str, Any]:
    return {"name": "audio-classification", "head": "mean", **options}


def _wrap(base: str, method: str = "lora", **options: Any) -> TunedModel:
    return pefttools.wrap(base, method, task=_task(**options), labels=LABELS, precision="float32")


def _recipe(base: str, data: Path, output: Path) -> dict[str, Any]:
    return {
        "base": base, "method": "lora", "task": _task(max_seconds=0.2),
        "data": {"train": str(data), "validation": 0.25},
        "training": {"max_steps": 4, "batch_size": 8, "precision": "float32"}, "output": str(output),
    }  # fmt: skip


def _noise(seconds: float, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def test_the_base_is_whispers_encoder_alone(tiny_whisper: str) -> None:
    model = _wrap(tiny_whisper, "untuned")
    whole = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    encoder = whole.model.encoder.eval()
    own = model.transformer.state_dict()
    assert own.keys() == encoder.state_dict().keys()
    assert all(torch.equal(own[name], value) for name, value in encoder.state_dict().items())
    sound = _noise(0.7)
    features = AutoFeatureExtractor.from_pretrained(tiny_whisper)(sound, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        states = encoder(features["input_features"]).last_hidden_state[:, :35]  # 50 a second
        assert model.head is not None
        expected = model.head.eval()(states, torch.ones(1, 35))
    torch.testing.assert_close(model.run_batch(model.processor([sound])), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("head", ["mean", "model"])
def test_positions_beyond_the_longest_sound_are_left_out(head: str, tiny_whisper: str) -> None:
    model = _wrap(tiny_whisper, "full", max_seconds=0.2, head=head)
    (encoder,) = (one for one in transformers_models(model) if hasattr(one, "conv1"))
    whole = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).model.encoder
    assert torch.equal(encoder.embed_positions.weight, whole.embed_positions.weight[:10])
    batch = model.processor([_noise(0.2)])
    assert batch["input_features"].shape == (1, 16, 20)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("embed_positions" in name or "decoder" in name for name in trained)
    assert any("conv1.weight" in name for name in trained)


def test_a_longest_sound_that_the_base_can_not_take(tiny_whisper: str) -> None:
    with pytest.raises(ConfigError, match=r"task.max_seconds=2 is more than the 1 seconds of the base") as caught:
        _wrap(tiny_whisper, max_seconds=2)
    assert "Set task.max_seconds=1 or less" in str(caught.value)
    assert _wrap(tiny_whisper).spec.task.options.max_seconds == 1  # that nobody asked for


def test_longer_sounds_are_cut_and_counted(tiny_whisper: str, tmp_path: Path) -> None:
    for number, seconds in enumerate((0.1, 0.3, 0.5)):
        soundfile.write(tmp_path / f"{number}.wav", _noise(seconds), RATE)
    rows = [{"audio": str(tmp_path / f"{number}.wav"), "label": "l0"} for number in range(3)]
    model = _wrap(tiny_whisper, max_seconds=0.25)
    task = model.spec.task
    cuts = cuts_of(task.encode(table_of_rows(rows, task), model.processor, LABELS), task)
    said = "train: 2 of 3 rows (66.7%) are longer than task.max_seconds=0.25 seconds and were cut; the longest has 0.5"
    assert cuts.line("train") == said
    answers = pefttools.predict(model, [row["audio"] for row in rows])
    assert [one.get("cut_from") for one in answers] == [None, 0.3, 0.5]
    soundfile.write(tmp_path / "cut.wav", _noise(0.5)[: RATE // 4], RATE)
    (alone,) = pefttools.predict(model, [str(tmp_path / "cut.wav")])
    assert alone["score"] == pytest.approx(answers[2]["score"], abs=1e-6)


@pytest.mark.parametrize("head", ["mean", pytest.param("model", marks=pytest.mark.slow)])
def test_wav2vec2_holds_the_contract(head: str, tiny_wav2vec2: str, tmp_path: Path) -> None:
    check_task(_task(head=head), base=tiny_wav2vec2, rows=ROWS, folder=tmp_path)


def test_a_base_that_hears_padding_gets_sounds_of_one_length(tmp_path: Path) -> None:
    """A norm over the whole length is in the first wav2vec 2.0, HuBERT and WavLM."""
    base = save_wav2vec2(tmp_path, feat_extract_norm="group")
    model = _wrap(base, max_seconds=0.5)
    short, long = _noise(0.1), _noise(0.3, 1)
    alone, beside = model.run_batch(model.processor([short])), model.run_batch(model.processor([short, long]))
    torch.testing.assert_close(alone[0], beside[0], atol=1e-6, rtol=1e-5)
    assert model.processor([short])["input_values"].shape == (1, RATE // 2)
    (note,) = model.spec.task.idle_options(model.processor, table_of_rows(ROWS, model.spec.task))
    assert "task.max_seconds=0.5: all sounds are padded to it" in note and "has 0.20 seconds" in note


def test_a_sound_shorter_than_a_state_is_heard(tiny_wav2vec2: str) -> None:
    model = _wrap(tiny_wav2vec2)
    tiny, long = _noise(0.002), _noise(0.2)
    alone, beside = model.run_batch(model.processor([tiny])), model.run_batch(model.processor([tiny, long]))
    assert alone.isfinite().all()
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("small", [True, False])
def test_sounds_in_columns_of_bytes(
    small: bool, tiny_whisper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `datasets` writes them; also where rows stand in mapped files."""
    if not small:
        monkeypatch.setattr("pefttools.data.mapped.SMALL", 5)
        monkeypatch.setattr("pefttools.data.table.SMALL", 5)
        monkeypatch.setattr("pefttools.training.examples.SMALL", 5)
    content = [Path(row["audio"]).read_bytes() for row in ROWS]
    cells = [{"bytes": one, "path": None} for one in content]
    table = pyarrow.table({"audio": cells, "label": [row["label"] for row in ROWS]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    stored = pefttools.train(_recipe(tiny_whisper, tmp_path / "rows.parquet", tmp_path / "out"))
    assert stored is not None
    assert pefttools.predict(stored.model, content) == pefttools.predict(stored.model, [row["audio"] for row in ROWS])


def test_damage_is_told_by_file_row_and_column(tiny_whisper: str, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    lines = ["recording,label"]
    for number, row in enumerate(ROWS):
        (tmp_path / "sounds" / f"{number}.flac").write_bytes(Path(row["audio"]).read_bytes())
        lines.append(f"sounds/{number}.flac,{row['label']}")
    data = tmp_path / "rows.csv"
    data.write_text("\n".join([*lines, ""]))
    recipe = _recipe(tiny_whisper, data, tmp_path / "out")
    recipe["data"]["columns"] = {"audio": "recording"}
    assert pefttools.train(recipe) is not None
    whole = (tmp_path / "sounds" / "4.flac").read_bytes()
    for content, said in ((b"broken", "not a sound in a known format"), (whole[: len(whole) // 2], "can't be decoded")):
        (tmp_path / "sounds" / "4.flac").write_bytes(content)
        with pytest.raises(DataError, match=rf"rows\.csv, row 5, column 'recording': .*{said}"):
            pefttools.evaluate(tmp_path / "out", str(data))
        some = pefttools.predict(tmp_path / "out", data=str(data), on_error="skip")
        assert [index for index, one in enumerate(some) if "error" in one] == [4]


def test_bases_of_other_inputs_are_refused(tiny_bert: str, tiny_vit: str, tiny_whisper: str) -> None:
    for base in (tiny_bert, tiny_vit):
        with pytest.raises(BaseModelError, match=r"has no feature extractor of sounds|not audio"):
            _wrap(base)
    with pytest.raises(BaseModelError, match="it reads input_features, not text"):
        pefttools.wrap(tiny_whisper, "lora", task={"name": "sequence-classification", "head": "mean"}, labels=LABELS)
    with pytest.raises(ConfigError, match="'prompt' can't train the task 'audio-classification': it puts virtual"):
        _wrap(tiny_whisper, "prompt")


def test_no_more_than_a_batch_of_samples_is_in_memory(tiny_whisper: str) -> None:
    """Examples hold files, not samples."""
    model = _wrap(tiny_whisper)
    examples = model.spec.task.encode(table_of_rows(ROWS, model.spec.task), model.processor, LABELS)
    assert all(isinstance(value, str | int) for one in examples for value in one.values())
    assert model.spec.task.sizes(examples)[:3] == [10, 12, 15]  # hundredths of a second
