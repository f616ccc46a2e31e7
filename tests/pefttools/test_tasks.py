"""What the tasks compute, against known values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.data import Table, read_table
from pefttools.errors import ConfigError, DataError
from pefttools.heads.pooling import pool
from pefttools.metrics.foreign import load_foreign
from pefttools.recipe import Recipe
from pefttools.tasks import tasks
from pefttools.tasks.labels.one_label import ClassPrediction
from pefttools.training.prepare import prepare
from tests.conftest import MINILM


def test_pooling() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "mean").flatten().tolist() == [2.0, 7.0]
    assert pool(states, mask, "cls").flatten().tolist() == [1.0, 5.0]
    assert pool(states, mask, "last").flatten().tolist() == [3.0, 9.0]


def test_a_metric_of_the_users_own(tmp_path: Path) -> None:
    script = tmp_path / "always_seven.py"
    script.write_text(
        "import datasets\nimport evaluate\n"
        "class AlwaysSeven(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        value = datasets.Value('int64')\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        "            features=datasets.Features({'predictions': value, 'references': value}))\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'seven': 7.0}\n"
    )
    (metric,) = load_foreign(str(script), {}, [0, 1], ())
    predictions = [ClassPrediction(label, (0.5, 0.5), "ab") for label in (0, 1)]
    assert metric.name == "seven" and metric.compute(predictions, [0, 1]) == 7.0
    with pytest.raises(ConfigError, match="can't be loaded"):
        load_foreign(str(tmp_path / "nothing.py"), {}, [0], ())


def test_metrics_by_name_need_no_hub_and_are_tried_before_training(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path
) -> None:
    recipe: dict[str, Any] = {"base": tiny_bert, "method": "lora", "data": intents, "output": str(tmp_path / "a"),
                              "training": {"max_steps": 1}}  # fmt: skip
    for metric_choice, problem in (
        ("f2", "the metric 'f2' can't be loaded"),
        ({"name": "f1", "averge": "macro"}, "the metric 'f1' does not take these options: .*averge"),
        ({"average": "macro"}, "a mapping needs the field 'name'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            prepare(Recipe(**recipe, task={"name": "sequence-classification", "metrics": [metric_choice]}))
    task = {"name": "sequence-classification", "head": "mean", "metrics": ["f1", "matthews_correlation"]}
    stored = pefttools.train({**recipe, "task": task})
    assert stored is not None and stored.test is not None
    assert stored.test.metrics["f1"] == stored.test.metrics["f1_macro"]
    assert -1 <= stored.manifest.metrics["test"]["matthews_correlation"] <= 1


def test_the_base_says_that_it_pools() -> None:
    model = pefttools.wrap(MINILM, "head", labels=["a", "b"])
    assert model.spec.head_kind == "mean"
    assert "pooler" not in dict(model.transformer.named_children()) or model.transformer.pooler is None


def test_pairs(tiny_bert: str) -> None:
    model = pefttools.wrap(
        tiny_bert, "lora", labels=["a", "b"], task={"name": "sequence-classification", "head": "mean"}
    )
    rows = [{"text": "one", "pair": "two"}, {"text": "two", "pair": "one"}]
    table = Table("t", rows, {"text": "text", "pair": "pair"}, range(1, 3))
    first = model.spec.task.encode(table, model.tokenizer, model.labels)[0]
    assert first["token_type_ids"] == [0, 0, 0, 1, 1]
    answers = pefttools.predict(model, rows)
    assert answers[0]["score"] != answers[1]["score"]


def test_pairs_are_refused_by_methods_that_drop_token_types(tiny_bert: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("text,pair,label\n" + "".join(f"a {i},b {i},{'xy'[i % 2]}\n" for i in range(20)))
    with pytest.raises(ConfigError, match="can't tell the two texts of a pair apart"):
        pefttools.train(
            {"base": tiny_bert, "method": "prefix", "data": {"train": str(path)}, "output": str(tmp_path / "a"),
             "task": {"name": "sequence-classification", "head": "mean"}}
        )  # fmt: skip


def _lm(base: str, **options: object) -> pefttools.TunedModel:
    return pefttools.wrap(base, "lora", task={"name": "causal-lm", **options}, precision="float32")


def test_the_loss_stands_on_the_completion_only(tiny_llama: str) -> None:
    model = _lm(tiny_llama)
    task = model.spec.task
    table = Table("t", [{"prompt": "how many apples", "completion": "nine"}], {"prompt": "p", "completion": "c"}, [1])
    (example,) = task.encode(table, model.tokenizer, [])
    labelled = [token for token in example["labels"] if token != -100]
    # the answer and the end of text, nothing of the prompt
    assert model.tokenizer.convert_ids_to_tokens(labelled) == ["nine", "[SEP]"]
    batch = task.collate([example], model.tokenizer)
    loss = task.loss(model.run_batch({k: v for k, v in batch.items() if k != "labels"}), batch["labels"])
    logits = model.transformer(input_ids=torch.tensor([example["input_ids"]])).logits[0]
    size = len(example["prompt_ids"])
    expected = torch.nn.functional.cross_entropy(logits[size - 1 : size + 1], torch.tensor(labelled))
    torch.testing.assert_close(loss, expected)


def test_perplexity_and_exact_match(tiny_llama: str) -> None:
    model = _lm(tiny_llama, max_new_tokens=3)
    rows = [{"prompt": f"question {n}", "completion": "an answer"} for n in range(5)]
    table = Table("t", rows, {"prompt": "prompt", "completion": "completion"}, range(1, 6))
    found = pefttools.evaluate(model, table, batch_size=2)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(found.metrics["loss"]))
    assert found.metrics["exact_match"] == 0.0
    answers = pefttools.predict(model, [row["prompt"] for row in rows])
    assert [one["prediction"] for one in answers] == found.answers()
    own = Table("t", [{**row, "completion": a["prediction"] or "x"} for row, a in zip(rows, answers, strict=True)],
                table.columns, range(1, 6))  # fmt: skip
    assert pefttools.evaluate(model, own).metrics["exact_match"] == 1.0


def test_causal_lm_columns_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\na,b\n")
    kind = tasks.get("causal-lm")
    task = kind(kind.config())
    with pytest.raises(DataError, match="needs the columns prompt and completion"):
        task.check(read_table(str(path), task.columns(), {}), [])
