"""Training that starts from an artifact's weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.artifact.manifest import MANIFEST
from pefttools.errors import ArtifactError, BaseModelError, ConfigError
from pefttools.methods import methods
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe, load_recipe
from pefttools.training.prepare import build_model, prepare
from pefttools.training.start import start_from
from tests.pefttools.tasks.samples import SAMPLES

TASK = {"name": "sequence-classification", "head": "mean"}


def _recipe(base: str, data: dict[str, str], output: Path, method: Any = "lora", **changes: Any) -> dict[str, Any]:
    return {
        "base": base,
        "method": method,
        "task": TASK,
        "data": dict(data),
        "training": {"max_steps": 3, "batch_size": 16, "precision": "float32"},
        "output": str(output),
        **changes,
    }


#: a slice for every day; the whole is slow
EVERY_DAY = {("lora", "mean"), ("lora", "model"), ("bitfit", "mean"), ("prefix", "mean"), ("full", "mean")}


@pytest.mark.parametrize(
    ("method", "head"),
    [
        pytest.param(name, head, marks=() if (name, head) in EVERY_DAY else pytest.mark.slow)
        for name in sorted(methods)
        if methods.get(name).capabilities.trains != "nothing" and methods.get(name).why_not is None
        for head in ("mean", "model")
    ],
)
def test_the_start_is_the_artifact(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], method: str, head: str
) -> None:
    task = {**TASK, "head": head}
    stored = pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", method, task=task))
    assert stored is not None
    recipe = _recipe(tiny_bert, intents, tmp_path / "b", method, task=task, **{"from": str(tmp_path / "a")})
    prepared = prepare(Recipe.model_validate(recipe))
    model = build_model(prepared)
    examples = prepared.examples.validation[:8]
    inputs = [{key: value for key, value in example.items() if key != "labels"} for example in examples]
    assert prepared.parent is not None
    start_from(model, prepared.parent, examples)
    torch.testing.assert_close(model.run(inputs), stored.model.run(inputs), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_parent_is_recorded_by_its_digest(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a"))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(_recipe(tiny_bert, intents, tmp_path / "b", seed=5)))
    stored = pefttools.train(load_recipe(path, [f"from={tmp_path / 'a'}"]))
    assert stored is not None
    digest = json.loads((tmp_path / "a" / "pefttools.json").read_bytes())["digest"]
    assert stored.manifest.training["parent"] == {"name": "a", "digest": digest, "task": TASK["name"]}
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "c", seed=5))
    # What was learned before is not forgotten in three steps: another start would be far away.
    first, second, other = (pefttools.load(tmp_path / name).state_dict() for name in ("a", "b", "c"))
    name = next(name for name in first if "lora_A" in name)
    assert (first[name] - second[name]).abs().max() < 0.1 * (first[name] - other[name]).abs().max()


def test_labels_are_the_parents(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a"))
    with Path(intents["train"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    some = [row for row in rows if row["label"] != "pin_blocked"]
    paths = {
        "fewer": some,
        "more": [*rows, {"text": "hello", "label": "greeting"}, {"text": "hi", "label": "greeting"}],
    }
    for name, chosen in paths.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows(chosen)
    parent = {"from": str(tmp_path / "a")}
    fewer = _recipe(tiny_bert, {"train": str(tmp_path / "fewer.csv")}, tmp_path / "b", **parent)
    prepared = prepare(Recipe.model_validate(fewer))
    assert len(prepared.labels) == 4
    more = _recipe(tiny_bert, {"train": str(tmp_path / "more.csv")}, tmp_path / "b", **parent)
    with pytest.raises(ConfigError, match="does not know the label 'greeting'"):
        prepare(Recipe.model_validate(more))


def test_what_can_not_be_a_start_is_refused(
    tmp_path: Path, tiny_bert: str, tiny_llama: str, intents: dict[str, str]
) -> None:
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", {"name": "lora", "r": 4}))
    parent = {"from": str(tmp_path / "a")}
    with pytest.raises(ConfigError, match=r"method\.name='lora', but the recipe says 'ia3'"):
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "b", "ia3", **parent))
    with pytest.raises(ConfigError, match=r"method\.r=4, but the recipe says 8"):
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "b", {"name": "lora", "r": 8}, **parent))
    with pytest.raises(BaseModelError, match="belongs to the base"):
        pefttools.train(_recipe(tiny_llama, intents, tmp_path / "b", {"name": "lora", "r": 4}, **parent))
    lora = {"name": "lora", "r": 4}
    with pytest.raises(ConfigError, match="has the head 'mean', not 'cls'"):
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "b", lora, task={**TASK, "head": "cls"}, **parent))
    with pytest.raises(ArtifactError, match="does not exist"):
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "b", **{"from": str(tmp_path / "none")}))
    weights = tmp_path / "a" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "b", lora, **parent), reporter=SilentReporter())


def test_a_method_that_is_stored_in_another_form_is_refused(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    pissa = {"name": "lora", "r": 4, "pissa": True}
    pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", pissa))
    with pytest.raises(ConfigError, match="stores it in a different form than it trains it in"):
        pefttools.train(_recipe(tiny_bert, intents, tmp_path / "b", pissa, **{"from": str(tmp_path / "a")}))


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("bottleneck", "model"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                ("lora", "mean"),
                ("lora", "model"),
                ("prefix", "mean"),
                ("prompt", "mean"),
                ("bitfit", "mean"),
                ("vera", "mean"),
            )
        ),
    ],
)
def test_an_adapter_of_a_domain_is_the_start_of_a_task(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], method: str, head: str
) -> None:
    """Masked words first, then labels: the states are those of the first adapter, the head is new, both are named."""
    domain = _recipe(tiny_bert, intents, tmp_path / "domain", method, task={"name": "masked-lm"})
    domain["training"]["learning_rate"] = 0.01
    assert pefttools.train(domain) is not None
    recipe = _recipe(
        tiny_bert, intents, tmp_path / "task", method, task=TASK | {"head": head}, **{"from": str(tmp_path / "domain")}
    )
    prepared = prepare(Recipe.model_validate(recipe))
    assert prepared.parent is not None and not prepared.parent.same_task
    model, before = build_model(prepared), build_model(prepared)
    start_from(model, prepared.parent, prepared.examples.validation[:4])
    # `take_over` itself compares the base's last states.
    moved = [name for name, p in model.trained().items() if not torch.equal(p, before.get_parameter(name))]
    assert moved and not set(moved) & model.of_head()
    trained = pefttools.train(recipe)
    assert trained is not None
    manifest = json.loads((tmp_path / "task" / MANIFEST).read_text())
    assert manifest["training"]["parent"]["task"] == "masked-lm"
    assert manifest["training"]["parent"]["name"] == "domain"


def test_an_adapter_that_lacks_weights_is_no_start(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    """All of a masked language model is trained, but it has no pooler."""
    method = {"name": "full"}
    assert pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", method, task={"name": "masked-lm"})) is not None
    recipe = _recipe(
        tiny_bert, intents, tmp_path / "b", method, task=TASK | {"head": "model"}, **{"from": str(tmp_path / "a")}
    )
    with pytest.raises(ConfigError, match=r"trained for the task 'masked-lm', and has no weights for \S*pooler"):
        pefttools.train(recipe)


def test_rows_of_several_texts_start_from_an_adapter_of_single_ones(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    assert pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", task={"name": "masked-lm"})) is not None
    path = tmp_path / "choices.jsonl"
    row = {"text": "what is it ?", "choices": ["a card", "a fee"], "label": 0}
    path.write_text(f"{json.dumps(row)}\n" * 8)
    for head in ("mean", "model"):
        recipe = _recipe(
            tiny_bert, {"train": str(path), "validation": str(path)}, tmp_path / head,
            task={"name": "multiple-choice", "head": head}, **{"from": str(tmp_path / "a")},
        )  # fmt: skip
        prepared = prepare(Recipe.model_validate(recipe))
        assert prepared.parent is not None
        start_from(build_model(prepared), prepared.parent, prepared.examples.validation[:3])


def test_tasks_with_a_decoder_of_their_own_start_anew(tmp_path: Path, tiny_t5: str, intents: dict[str, str]) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one", "target": "two"}\n' * 8)
    data = {"train": str(path), "validation": str(path)}
    assert pefttools.train(_recipe(tiny_t5, data, tmp_path / "a", task={"name": "seq2seq-lm"})) is not None
    recipe = _recipe(tiny_t5, intents, tmp_path / "b", task=TASK, **{"from": str(tmp_path / "a")})
    with pytest.raises(ConfigError, match="'seq2seq-lm', whose adapter the task 'sequence-classification' can't take"):
        pefttools.train(recipe)


def test_tasks_on_pictures_start_anew(tmp_path: Path, tiny_clip: str) -> None:
    tasks = ("image-text-retrieval", "zero-shot-image-classification")
    recipes = []
    for task, start in zip(tasks, (None, str(tmp_path / tasks[0])), strict=True):
        options, rows = SAMPLES[task]
        path = tmp_path / f"{task}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        data = {"train": str(path), "validation": str(path)}
        recipes.append(
            _recipe(
                tiny_clip, data, tmp_path / task, task={"name": task, **options}, **{"from": start} if start else {}
            )
        )
    assert pefttools.train(recipes[0]) is not None
    with pytest.raises(ConfigError, match="'image-text-retrieval', whose adapter the task 'zero-shot-image-class"):
        prepare(Recipe.model_validate(recipes[1]))
