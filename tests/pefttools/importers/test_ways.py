"""The ways in which adapters come in, and what is said of them afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import pefttools
from pefttools.cli.artifacts import inspect
from pefttools.cli.main import build_app
from pefttools.errors import ArtifactError, ConfigError
from tests.conftest import INTENTS
from tests.pefttools.test_hub import PROGRAM, Hub

from .foreign import CONFIG, KINDS, LABELS, WEIGHTS, by_peft, change_config, copy, make, plain


def test_it_is_evaluated_inspected_and_served_like_any_other(
    lora: Path, tiny_bert: str, intents: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(INTENTS[:3])
    manifest = pefttools.import_adapter(lora, tiny_bert, tmp_path / "one", labels=names, task={"max_length": 32})
    assert manifest.method.config["targets"] == ["attention.self.query", "attention.self.value"]
    assert manifest.task.config["max_length"] == 32 and manifest.storage == "float32"
    assert manifest.parameters["head"] == 3 * 64 + 3
    assert manifest.parameters["trainable"] == sum(t.numel() for t in load_file(lora / WEIGHTS).values())
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (lora / WEIGHTS).read_bytes()
    assert (tmp_path / "one" / CONFIG).read_bytes() == (lora / CONFIG).read_bytes()
    rows = tmp_path / "rows.csv"
    lines = Path(intents["test"]).read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join(lines[:1] + [line for line in lines if INTENTS[3] not in line][1:]), encoding="utf-8")
    found = pefttools.evaluate(tmp_path / "one", str(rows))
    assert 0 <= found.metrics["accuracy"] <= 1
    assert set(found.answers()) <= set(names)
    inspect(tmp_path / "one", as_json=False, norms=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "base given by the user, not verified by the source" in shown and "low_rank" in shown
    assert "not verified by the source" in (tmp_path / "one" / "README.md").read_text()
    with pytest.raises(ConfigError, match="exists already"):
        pefttools.import_adapter(lora, tiny_bert, tmp_path / "one", labels=names)
    with pytest.raises(ArtifactError, match="is already an artifact"):
        pefttools.import_adapter(tmp_path / "one", tiny_bert, tmp_path / "two", labels=names)
    pefttools.import_adapter(lora, tiny_bert, tmp_path / "one", labels=LABELS, overwrite=True)
    assert pefttools.inspect(tmp_path / "one").task.labels == LABELS
    # Whoever composes them does not pass the unverified origin of one off as that of the sum, nor hide it.
    pefttools.import_adapter(lora, tiny_bert, tmp_path / "two", labels=LABELS)
    pefttools.compose([tmp_path / "one", tmp_path / "two"], [0.5, 0.5], tmp_path / "sum")
    composed = pefttools.inspect(tmp_path / "sum")
    assert composed.imported is None
    assert all("not verified" in part["imported"] for part in composed.training["composed_of"])


def test_inputs_are_as_long_as_the_base_takes(tiny_bert: str, tiny_gpt2: str, tmp_path: Path) -> None:
    prompt = make(KINDS["prompt"], tiny_bert, tmp_path / "prompt")
    manifest = pefttools.import_adapter(prompt, tiny_bert, tmp_path / "a", labels=LABELS)
    assert manifest.task.config["max_length"] == 512 - 3
    with pytest.raises(ConfigError, match=r"task.max_length=512 and 3 virtual tokens are more than the 512 positions"):
        pefttools.import_adapter(prompt, tiny_bert, tmp_path / "c", labels=LABELS, task={"max_length": 512})
    transposed = make(KINDS["transposed layers"], tiny_gpt2, tmp_path / "transposed")
    manifest = pefttools.import_adapter(transposed, tiny_gpt2, tmp_path / "b")
    assert manifest.task.config["max_length"] == 128 - manifest.task.config["max_new_tokens"]


def test_labels_of_configurations(lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    base = copy(Path(tiny_bert), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "id2label": {"0": "x", "1": "y", "2": "z"}}))
    assert pefttools.import_adapter(lora, str(base), tmp_path / "a").task.labels == ["x", "y", "z"]
    folder = copy(lora, tmp_path / "peft")
    (folder / "config.json").write_text(json.dumps({"id2label": {"2": "c", "0": "a", "1": "b"}}))
    manifest = pefttools.import_adapter(folder, str(base), tmp_path / "b")
    assert manifest.task.labels == ["a", "b", "c"]
    assert manifest.imported is not None and "config.json" in manifest.imported.files
    assert pefttools.import_adapter(folder, str(base), tmp_path / "c", labels=LABELS).task.labels == LABELS
    (folder / "config.json").write_text(json.dumps({"problem_type": "multi_label_classification"}))
    with pytest.raises(ConfigError, match="problem_type=multi_label_classification"):
        pefttools.import_adapter(folder, str(base), tmp_path / "d")


def test_a_task_that_the_source_does_not_say(tiny_llama: str, tmp_path: Path) -> None:
    kind = replace(KINDS["causal, with head and norms"], task="CAUSAL_LM")
    folder = make(kind, tiny_llama, tmp_path / "peft")
    change_config(folder, task_type=None)
    manifest = pefttools.import_adapter(folder, tiny_llama, tmp_path / "a", task="causal-lm")
    assert manifest.task.name == "causal-lm"
    batch = dict(pefttools.load(tmp_path / "a").tokenizer(["a text"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(kind, tiny_llama, folder, batch)
    assert (pefttools.load(tmp_path / "a").run_batch(batch) - wanted).abs().max() <= 1e-5
    with pytest.raises(ConfigError, match="has no labels"):
        pefttools.import_adapter(folder, tiny_llama, tmp_path / "b", task="causal-lm", labels=["a"])


def test_on_the_command_line(lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    output, store = tmp_path / "artifact", str(tmp_path / "store")
    said = ("--base", tiny_bert, "--labels", ",".join(LABELS))
    assert "not verified by the source" in run(
        "import", str(lora), *said, "--output", str(output), "--set", "max_length=64"
    )
    assert pefttools.inspect(output).task.config["max_length"] == 64
    added = run("store", "add", str(lora), *said, "--name", "acme", "--tag", "prod", "--store", store)
    assert added.split() == ["acme@1"]
    manifest = pefttools.verify(pefttools.Store(store).get("acme@prod"))
    assert manifest.imported is not None and manifest.imported.source == str(lora)
    with pytest.raises(ArtifactError, match=r"has no pefttools\.json") as caught:
        run("store", "add", str(lora), "--name", "acme", "--store", store)
    assert "pefttools import" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="are for adapters to import"):
        run("store", "add", str(output), "--name", "acme", "--store", store, "--labels", "a,b")


@pytest.mark.slow
def test_from_a_hub(hub: Hub, lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    hub.repos["org/foreign"] = {path.name: path.read_bytes() for path in lora.iterdir()}
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"),
                   "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    done, missing = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "import", f"org/{name}", "--base", tiny_bert, "--output",
             str(tmp_path / name), "--labels", ",".join(LABELS)],
            capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False,
        )
        for name in ("foreign", "nothing")
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = pefttools.inspect(tmp_path / "foreign")
    assert manifest.imported is not None
    assert manifest.imported.source == "org/foreign" and manifest.imported.revision == hub.commit("org/foreign")
    assert missing.returncode == 2
    assert "is not a local folder, and the hub did not provide it" in " ".join(missing.stderr.replace("│", " ").split())


def test_options_without_effect_are_said(lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    folder = copy(lora, tmp_path / "peft")
    change_config(
        folder,
        alpha_pattern={"query": 8, "layer.7.*value": 2, "quary": 3},
        modules_to_save=["classifier", "score", "adapter_norm"],
    )
    with pytest.warns(UserWarning, match="it has no effect") as said:
        pefttools.import_adapter(folder, tiny_bert, tmp_path / "a", labels=LABELS)
    found = [str(one.message) for one in said]
    assert len(found) == 3
    for option, name in (
        ("alpha_pattern", "layer.7.*value"),
        ("alpha_pattern", "quary"),
        ("modules_to_save", "adapter_norm"),
    ):
        assert any(f"{option} names {name!r}" in one for one in found)


def test_a_head_with_one_output_is_a_regression(tiny_bert: str, tmp_path: Path) -> None:
    kind = next(one for one in KINDS.values() if one.task == "SEQ_CLS" and one.base == "tiny_bert")
    folder = make(kind, tiny_bert, tmp_path / "peft", outputs=1)
    with pytest.raises(ConfigError, match="it gives a number, not labels") as caught:
        pefttools.import_adapter(folder, tiny_bert, tmp_path / "one", labels=["a"])
    assert "--task that predicts numbers" in (caught.value.hint or "")
    pefttools.import_adapter(folder, tiny_bert, tmp_path / "one", task="regression")
    (found,) = pefttools.predict(tmp_path / "one", ["one two three"])
    model = peft.PeftModel.from_pretrained(plain(tiny_bert, "SEQ_CLS", outputs=1), str(folder)).eval()
    batch = pefttools.load(tmp_path / "one").tokenizer(
        "one two three", return_tensors="pt", return_token_type_ids=False
    )
    with torch.no_grad():
        assert found["prediction"] == pytest.approx(float(model(**batch).logits), abs=1e-5)
    with pytest.raises(ConfigError, match="was trained for the task 'sequence-classification', not for 'causal-lm'"):
        pefttools.import_adapter(folder, tiny_bert, tmp_path / "two", task="causal-lm")
