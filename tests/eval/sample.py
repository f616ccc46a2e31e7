"""Records as runs write them, for tests of the report."""

from __future__ import annotations

import random
from pathlib import Path

from pefttools.eval.records import (
    ArtifactEntry,
    Failure,
    Memory,
    Parts,
    Predicted,
    RunRecord,
    Trial,
    write_predictions,
    write_record,
)
from pefttools.files import canonical_json, write_text_atomic

EVIL = "<script>document.title='run'</script>"


def write_sample(folder: Path, *, rows: int = 2000, seeds: int = 1, baseline: str = "full") -> None:
    """A comparison of three methods and one that failed; one label tries to be a script."""
    write_text_atomic(folder / "bench.json", canonical_json({"name": f"Sample {EVIL}", "baseline": baseline}))
    for label, trained, share, weights in (
        ("full", 22_000_000, 0.93, 90),
        ("lora", 360_000, 0.925, 90),
        (EVIL, 16_000, 0.80, 50),
    ):
        for seed in range(seeds):
            generator = random.Random(f"{label}-{seed}")
            right = [generator.random() < share for _ in range(rows)]
            name = f"run{abs(hash(label)) % 1000}-seed{seed}" if label == EVIL else f"{label}-seed{seed}"
            training = Parts(weights=weights * 2**20, gradients=trained * 4, optimizer=trained * 8, other=200 * 2**20)
            # of full the prediction is wrong by a tenth
            predicted = Predicted(
                training_peak=round(training.peak * (1.1 if label == "full" else 1)),
                gpu_training_peak=round(training.peak * 0.75),
            )
            record = RunRecord(
                id=name,
                label=label,
                method="lora" if label != "full" else "full",
                config={"r": 8},
                variant="nf4" if label == EVIL else "float32",
                task="sequence-classification",
                primary_metric="accuracy",
                seed=seed,
                base={"id": "base", "size": 90_000_000},
                recipe={"name": label},
                recipe_hash="0" * 64,
                status="ok",
                data={"test": "1" * 64},
                rows={"train": 1000, "validation": 100, "test": rows},
                parameters={"total": 22_700_000, "trainable": trained, "head": 1000},
                learning_rate=1e-3,
                trials=[Trial(learning_rate=1e-3, status="ok", score=share, steps=10, chosen=True)],
                history=[{"step": s, "loss": 2.0 / s} for s in range(1, 11)] + [{"step": 10, "eval_accuracy": share}],
                validation={"accuracy": share},
                test={"accuracy": sum(right) / rows, "f1_macro": share},
                steps=10,
                best_step=10,
                samples=3000,
                tokens=50_000,
                seconds={"train": 20.0, "total": 30.0},
                memory=Memory(
                    device="cpu",
                    training=training,
                    evaluation=Parts(weights=weights * 2**20, other=60 * 2**20),
                    source="counted",
                    batch=(32, 40),
                    peak_rss=10**9,
                    predicted=predicted,
                ),
                artifact=ArtifactEntry(
                    path="artifact", bytes=trained * 2, weights_bytes=trained * 2, storage="float16", share_of_base=0.01
                ),
                created="2026-01-01T00:00:00+00:00",
            )
            write_record(folder / "runs" / name, record)
            write_predictions(folder / "runs" / name, [_entry(at, one) for at, one in enumerate(right)])
    failed = record.model_copy(
        update={
            "id": "broken-seed0",
            "label": "=broken",
            "status": "oom",
            "validation": {},
            "test": {},
            "memory": None,
            "artifact": None,
            "error": Failure(type="MemoryError", message=f"no room {EVIL}"),
            "history": [],
        }
    )
    write_record(folder / "runs" / "broken-seed0", failed)


def _entry(index: int, right: bool) -> dict[str, object]:
    """A prediction of one of three classes."""
    labels = ("arrival", "rate", EVIL)
    reference = labels[index % 3]
    return {
        "prediction": reference if right else labels[(index + 1) % 3],
        "reference": reference,
        "correct": bool(right),
    }
