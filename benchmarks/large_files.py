"""Many images, and an hour of speech: from the data file to the first batches, in time and memory.

Images of 28 x 28 pixels in a parquet file, in a column of bytes and by path; audio of five seconds by path. What is
measured: everything that a training does before its first step (reading, checking, splitting, encoding, first batch),
then nineteen more batches, in a separate process with an empty cache, without imports; then again from the cache.

    python benchmarks/large_files.py --pictures 70000 --seconds 3600
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

BATCHES, BATCH_SIZE = 20, 32
LENGTH, RATE = 5, 16_000


def write_pictures(folder: Path, count: int) -> None:
    """Noise images, all different: as bytes and by path."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    (folder / "pictures").mkdir()
    rows = []
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (28, 28), np.uint8)).save(stream, "PNG")
        (folder / "pictures" / f"{number}.png").write_bytes(stream.getvalue())
        rows.append({"bytes": stream.getvalue(), "path": f"pictures/{number}.png", "label": f"kind {number % 10}"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pictures.parquet")


def write_sounds(folder: Path, seconds: int) -> None:
    """Noise in files of five seconds."""
    import numpy as np
    import soundfile

    (folder / "sounds").mkdir()
    with (folder / "sounds.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(seconds // LENGTH):
            noise = np.random.default_rng(number).normal(0, 0.1, LENGTH * RATE)
            soundfile.write(folder / "sounds" / f"{number}.flac", noise, RATE)
            stream.write(json.dumps({"path": f"sounds/{number}.flac", "label": f"kind {number % 10}"}) + "\n")


def write_bases(folder: Path) -> None:
    """Models that are never run: their files define the processors of images and audio."""
    from transformers import ViTConfig, ViTModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(image_size=224, patch_size=16, **small)).save_pretrained(folder / "vit")
    ViTImageProcessorPil().save_pretrained(folder / "vit")
    config = WhisperConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                           decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64)  # fmt: skip
    WhisperModel(config).save_pretrained(folder / "whisper")
    WhisperFeatureExtractor().save_pretrained(folder / "whisper")


def begin(folder: Path, what: str) -> tuple[float, int]:
    """A training up to its twentieth batch; returns the seconds up to the first one, and the bytes of all."""
    from pefttools.recipe import Recipe
    from pefttools.training.prepare import prepare

    pictures = what != "sounds"
    task: dict[str, Any] = {"name": "image-classification"} if pictures else {
        "name": "audio-classification", "max_seconds": LENGTH,
    }  # fmt: skip
    columns = {"image" if pictures else "audio": "bytes" if what == "bytes" else "path"}
    recipe = Recipe.model_validate(
        {"base": str(folder / ("vit" if pictures else "whisper")), "method": "lora", "task": {**task, "head": "mean"},
         "data": {"train": str(folder / ("pictures.parquet" if pictures else "sounds.jsonl")), "validation": 0.1,
                  "columns": columns}, "output": str(folder / "artifact")}
    )  # fmt: skip
    begun = time.perf_counter()
    prepared = prepare(recipe)
    processor = prepared.task.processor(prepared.base)
    train, size = prepared.examples.train, 0
    for start in range(0, BATCHES * BATCH_SIZE, BATCH_SIZE):
        batch = prepared.task.collate([train[index] for index in range(start, start + BATCH_SIZE)], processor)
        size += sum(tensor.numel() * tensor.element_size() for tensor in batch.values())
        if not start:
            first = time.perf_counter() - begun
    return first, size


def run_side(folder: Path, what: str) -> dict[str, Any]:
    """Seconds and memory, in this process."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import psutil
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from pefttools.logs import quiet_libraries

    quiet_libraries()
    process, done = psutil.Process(), threading.Event()
    own = [process.memory_info().rss - process.memory_info().shared] * 2

    def watch() -> None:
        while not done.wait(0.02):
            info = process.memory_info()
            own[1] = max(own[1], info.rss - info.shared)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        first, size = begin(folder, what)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        thread.join()
    return {
        "first_batch_s": round(first, 2),
        "twenty_s": round(seconds, 2),
        "more_memory_mb": round((own[1] - own[0]) / 1e6),
        "batch_mb": round(size / BATCHES / 1e6, 1),
    }


def main() -> None:
    """Print a line per kind and turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=70_000)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--side", nargs=2, metavar=("FOLDER", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(Path(arguments.side[0]), arguments.side[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bases(folder)
        write_pictures(folder, arguments.pictures)
        write_sounds(folder, arguments.seconds)
        for what in ("bytes", "path", "sounds"):
            for turn in ("first", "again"):
                done = subprocess.run(
                    [sys.executable, __file__, "--side", name, what], capture_output=True, text=True,
                    env={**os.environ, "PEFTTOOLS_CACHE": str(folder / "cache")}, check=False,
                )  # fmt: skip
                print(what, turn, done.stdout.strip() or done.stderr[-2000:], flush=True)


if __name__ == "__main__":
    main()
