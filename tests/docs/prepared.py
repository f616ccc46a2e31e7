"""What pages take for granted: a reader's own files, adapters and base."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
from PIL import Image

import pefttools
from pefttools.methods import methods
from pefttools.objectives import Objective
from pefttools.objectives.objective import WeightedConfig
from pefttools.tasks import tasks
from pefttools.testing import check_objective

from .following import Preparation
from .pages import ROOT

Fixture = Callable[[str], Any]


def banking(text: str, label: str) -> Preparation:
    """Files train.csv and test.csv with questions about four topics, in columns of these names."""

    def write(fixture: Fixture) -> None:
        for split in ("train", "test"):
            with Path(fixture("intents")[split]).open(encoding="utf-8", newline="") as source:
                rows = [(row["text"], row["label"]) for row in csv.DictReader(source)]
            with Path(f"{split}.csv").open("w", encoding="utf-8", newline="") as target:
                csv.writer(target).writerows([(text, label), *rows])

    return write


def linked(**fixtures: str) -> Preparation:
    """Paths (with `__` for `/`) that lead to folders of fixtures."""

    def link(fixture: Fixture) -> None:
        for path, name in fixtures.items():
            _link(path.replace("__", "/"), fixture(name))

    return link


def _link(path: str, target: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).symlink_to(target)


def adapter(base: str, path: str, task: str, *, at: str = "", **options: Any) -> Preparation:
    """An untrained adapter on the base of a fixture, saved, and the base at another path if it is given."""

    def make(fixture: Fixture) -> None:
        if at:
            _link(at, fixture(base))
        model = pefttools.wrap(at or fixture(base), "lora", task=task, **options)
        pefttools.save(model, path)

    return make


def in_store(fixture: Fixture) -> None:
    """Two adapters of a language model, one of them in a store."""
    adapter("tiny_llama", "artifacts/acme", "causal-lm", at="path/to/base")(fixture)
    pefttools.Store("adapters").add("artifacts/acme", "globex", tag="prod")


def chat(fixture: Fixture) -> dict[str, Any]:
    """An artifact that chats, and a pool that holds it as `acme`."""
    base = fixture("tiny_llama")
    pefttools.save(pefttools.wrap(base, "lora", task="causal-lm"), "artifacts/chat")
    pool = pefttools.AdapterPool(base)
    pool.load("acme", "artifacts/chat")
    return {"pefttools": pefttools, "pool": pool}


def with_passages(fixture: Fixture) -> None:
    """An adapter for questions that was trained with passages, and rows to test it on."""
    rows = Path("examples/data/spans-test.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    Path("test.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    recipe = {
        "base": fixture("tiny_bert"),
        "method": "lora",
        "task": {"name": "question-answering", "max_length": 128, "stride": 24},
        "data": {
            "train": "examples/data/spans-train.jsonl",
            "validation": 0.1,
            "limit": {"train": 24, "validation": 8},
        },
        "knowledge": {"index": "indexes/spans", "replace": True},
        "training": {"max_steps": 2},
        "output": "artifacts/adapter",
    }
    pefttools.train(pefttools.Recipe(**recipe))


def by_peft(fixture: Fixture) -> None:
    """What PEFT's own code saved: a folder, and the same under a hub id."""
    from transformers import AutoModelForSequenceClassification

    base = fixture("tiny_bert")
    _link("ORG/BASE", base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False)).save_pretrained(
        "path/to/peft-folder"
    )
    _link("ORG/ADAPTER", str(Path("path/to/peft-folder").absolute()))


def pictures(fixture: Fixture) -> None:
    """A vision model, an adapter for it in place of that for texts, and two pictures."""
    _link("google/vit-base-patch16-224", fixture("tiny_vit"))
    task = {"name": "image-classification"}
    model = pefttools.wrap("google/vit-base-patch16-224", "lora", task=task, labels=["cat", "dog"])
    shutil.rmtree("artifacts")
    pefttools.save(model, "artifacts/acme")
    for name in ("photo.jpg", "other.png"):
        Image.new("RGB", (20, 20), "red").save(name)


def a_store(fixture: Fixture) -> None:
    """A base and a store with an adapter of it."""
    adapter("tiny_bert", "artifacts/acme", "sequence-classification", at="BASE", labels=["no", "yes"])(fixture)
    pefttools.Store("STORE").add("artifacts/acme", "acme")


def plugin(folder: str, module: str, kind: str, registry: str) -> Preparation:
    """What an example of a plugin declares, as if it were installed, and rows for it."""

    def register(fixture: Fixture) -> dict[str, Any]:
        place = importlib.util.spec_from_file_location(module, ROOT / "examples" / folder / module / "__init__.py")
        assert place is not None and place.loader is not None
        made = sys.modules[module] = importlib.util.module_from_spec(place)
        place.loader.exec_module(made)
        registries = {"methods": methods, "tasks": tasks}
        registered = getattr(made, kind)
        registries[registry].register(registered.name)(registered)
        return {
            "ROWS": [{"text": "one two three four"[: 4 + n % 12], "level": ["low", "high"][n % 2]} for n in range(36)]
        }

    return register


def to_write_objectives(fixture: Fixture) -> dict[str, Any]:
    """What the class on the page is made of."""
    _link("tiny-bert", fixture("tiny_bert"))
    rows = [{"text": "one two three four"[: 4 + n % 12], "label": ["low", "high"][n % 2]} for n in range(36)]
    return {"Objective": Objective, "WeightedConfig": WeightedConfig, "check_objective": check_objective, "ROWS": rows}
