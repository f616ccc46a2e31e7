"""Sounds: how they are read, and what is said of those that can't be."""

from __future__ import annotations

import io
import struct
import tracemalloc
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr

from pefttools.data.sounds import read_sound, sound_seconds
from pefttools.errors import DataError

RATE = 16_000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
WHERE = "rows.csv, row 3, column 'voice'"


def _bytes(samples: Any = TONE, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "error"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-22),
        ("WAV", "FLOAT", 1e-7),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-22),
        ("OGG", "VORBIS", 0.05),
    ],
)
@pytest.mark.parametrize("as_bytes", [True, False])
def test_every_format_gives_its_samples(kind: str, subtype: str, error: float, as_bytes: bool, tmp_path: Path) -> None:
    content = _bytes(kind=kind, subtype=subtype)
    (tmp_path / "one").write_bytes(content)
    cell = content if as_bytes else str(tmp_path / "one")
    found = read_sound(cell, WHERE, RATE)
    assert found.dtype == np.float32 and found.shape == (RATE,)
    assert np.abs(found - TONE).max() <= error
    assert sound_seconds(cell) == 1.0


def test_channels_are_mixed() -> None:
    both = np.stack([TONE, 0.25 * TONE], axis=1)
    np.testing.assert_allclose(read_sound(_bytes(both, subtype="FLOAT"), WHERE, RATE), 0.625 * TONE, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_samples_are_those_of_another_rate(rate: int) -> None:
    given = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    found = read_sound(_bytes(given, rate, subtype="FLOAT"), WHERE, RATE)
    np.testing.assert_array_equal(found, soxr.resample(given, rate, RATE))
    other = scipy.signal.resample_poly(given, RATE, rate)
    inner = slice(RATE // 10, -RATE // 10)  # each has its own way with the ends
    assert np.abs(found[inner] - other[inner]).max() < 5e-3
    assert np.abs(found[inner] - 2 * TONE[inner]).max() < 1e-3


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    """Of an hour no more than what is asked for."""
    hour = tmp_path / "hour.wav"
    with wave.open(str(hour), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(b"")
    size = 3600 * RATE * 2
    header = bytearray(hour.read_bytes())
    header[4:8], header[40:44] = struct.pack("<I", size + 36), struct.pack("<I", size)
    with hour.open("wb") as stream:
        stream.write(header)
        stream.truncate(size + 44)
    assert sound_seconds(str(hour)) == 3600
    tracemalloc.start()
    found = read_sound(str(hour), WHERE, RATE, 2.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 2 * RATE and peak < 2_000_000


def test_a_streamed_header_that_knows_no_length_is_taken() -> None:
    """As espeak-ng and others write it to a pipe."""
    content = bytearray(_bytes())
    content[4:8], content[40:44] = struct.pack("<I", 0x7FFFF024), struct.pack("<I", 0x7FFFF000)
    assert len(read_sound(bytes(content), WHERE, RATE)) == RATE


NOISE = np.random.default_rng(0).normal(0, 0.1, RATE)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (b"no sound", "the bytes are not a sound in a known format"),
        ("nowhere.wav", "there is no file 'nowhere.wav'"),
        (str(Path(__file__).parent), "there is no file"),
        (__file__, "is not a sound in a known format"),
        (None, "the sound is missing"),
        (b"", "the file is empty"),
        (3.5, "not a sound: 3.5"),
        (_bytes(TONE[:0]), "the sound is empty"),
        (_bytes(NOISE)[:9_000], "the sound is cut short: 8,956 of 32,000 bytes are there"),
        (_bytes(NOISE, kind="FLAC")[:9_000], "the sound can't be decoded"),
        (_bytes(np.full(9, np.nan), subtype="FLOAT"), "samples that are not numbers"),
        (_bytes(TONE[:1], rate=192_000), "has 1 samples at 192000 Hz, but none at 16000 Hz"),
    ],
    # Not by the cells: what is written into a file depends on the time.
    ids=[
        "other-bytes", "no-file", "folder", "other-file", "none", "no-bytes", "number", "empty", "cut", "cut-flac",
        "no-numbers", "too-short",
    ],
)  # fmt: skip
def test_what_is_no_sound_is_named(cell: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"{WHERE}: .*{said}"):
        read_sound(cell, WHERE, RATE)


def test_a_sound_that_ends_before_its_header_says_is_noticed() -> None:
    content = _bytes(NOISE, kind="MP3", subtype="MPEG_LAYER_III")
    with pytest.raises(DataError, match=r"damaged: 0.\d\d of 1.00 seconds can be decoded"):
        read_sound(content[: len(content) // 2], WHERE, RATE)


@pytest.mark.parametrize(("channels", "rate"), [(9, 16_000), (1, 200_000)])
def test_a_small_file_that_would_decode_to_gigabytes_is_refused(channels: int, rate: int) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros((rate, channels)), rate, format="WAV")
    with pytest.raises(ValueError, match=f"the sound has {channels} channels at {rate:,} Hz; at most 8 at 192,000 Hz"):
        sound_seconds(stream.getvalue())
