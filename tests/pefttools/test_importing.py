"""Adapters that PEFT made become artifacts that answer as PEFT does, or are refused by one clear message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import pefttools
from pefttools.cli.artifacts import inspect
from pefttools.cli.main import build_app
from pefttools.errors import ArtifactError, ConfigError, PeftToolsError
from pefttools.packages import package_path
from tests.conftest import INTENTS, MINILM

from . import test_hub
from .foreign import CLASSES, KINDS, LABELS, by_peft, make, plain, texts
from .pool.makers import alone, assert_close
from .test_hub import PROGRAM, Hub

hub = test_hub.hub
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(KINDS[request.node.callspec.params["kind"]].base))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_peft(kind: str, base: str, intents: dict[str, str], tmp_path: Path) -> None:
    chosen = KINDS[kind]
    folder = make(chosen, base, tmp_path / "peft")
    artifact = tmp_path / "artifact"
    labels = LABELS if chosen.task == "SEQ_CLS" else ()
    manifest = pefttools.import_adapter(folder, base, artifact, labels=labels)
    assert manifest.imported is not None and manifest.imported.importer == "peft"
    assert manifest.task.labels == list(labels)
    assert pefttools.verify(artifact) == manifest

    model = pefttools.load(artifact)
    rows = texts(intents["test"], 6)
    for padded in (rows, rows[:1]):
        batch = dict(model.tokenizer(padded, padding=True, padding_side="right", return_tensors="pt"))
        batch.pop("token_type_ids", None)
        found, wanted = model.run_batch(batch), by_peft(chosen, base, folder, batch)
        real = batch["attention_mask"].bool() if chosen.task == "CAUSAL_LM" else slice(None)
        assert (found[real] - wanted[real]).abs().max() <= 1e-5
    # It has an effect, so that equality says something.
    bare = plain(base, chosen.task).eval()
    assert (bare(**batch).logits - wanted).abs().max() > 1e-2
    assert (folder / "adapter_model.bin").is_file() == chosen.pickled

    pool = pefttools.AdapterPool(base)
    pool.load("it", artifact)
    for row, answer in zip(rows[:3], pool(rows[:3], ["it"] * 3), strict=True):
        assert_close(answer.logits, alone(model, row))


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    return make(KINDS["lora"], tiny_bert, tmp_path_factory.mktemp("lora") / "peft")


def _truncated(folder: Path, **_: str) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def _without_configuration(folder: Path, **_: str) -> None:
    (folder / CONFIG).unlink()


def _without_weights(folder: Path, **_: str) -> None:
    (folder / WEIGHTS).unlink()


def _changed(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


class _Runs:
    """A pickle that would run code."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def _pickle_with_code(folder: Path, **_: str) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"w": _Runs(folder.parent / "ran")}, folder / "adapter_model.bin")


def _other_shapes(folder: Path, **_: str) -> None:
    state = {n: t[:, :32].contiguous() if ".lora_A." in n else t for n, t in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS)


def _one_tensor_too_few(folder: Path, **_: str) -> None:
    state = load_file(folder / WEIGHTS)
    state.pop(next(name for name in state if ".lora_B." in name))
    save_file(state, folder / WEIGHTS)


def _not_finite(folder: Path, **_: str) -> None:
    state = load_file(folder / WEIGHTS)
    next(iter(state.values()))[0] = float("nan")
    save_file(state, folder / WEIGHTS)


def _no_head(folder: Path, **_: str) -> None:
    state = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if "classifier" not in name}
    save_file(state, folder / WEIGHTS)


#: what is broken -> how, and what the one message says
BROKEN: dict[str, tuple[Callable[..., None], dict[str, object], str]] = {
    "truncated": (_truncated, {}, r"adapter_model\.safetensors is damaged"),
    "no configuration": (_without_configuration, {}, r"has no adapter_config\.json"),
    "no weights": (_without_weights, {}, r"neither adapter_model\.safetensors nor adapter_model\.bin"),
    "code in a pickle": (_pickle_with_code, {}, "would run code of its author's choice"),
    "other shapes": (_other_shapes, {}, r"4 of its 10 tensors have another shape, e\.g\. bert.*\(4, 32\).*\(4, 64\)"),
    "a tensor too few": (_one_tensor_too_few, {}, "1 tensors are missing, unknown or of another shape"),
    "not finite": (_not_finite, {}, "holds numbers that are not finite"),
    "no head": (_no_head, {}, r"holds classifier\.weight, which the task's head needs: PEFT would draw it at random"),
    "unknown type": (_changed, {"peft_type": "NOVELTY"}, "PEFT's type 'NOVELTY' can't be imported"),
    "another type": (_changed, {"peft_type": "LOHA"}, "PEFT's type 'LOHA' can't be imported"),
    "no type": (_changed, {"peft_type": None}, "has no peft_type"),
    "another task": (_changed, {"task_type": "TOKEN_CLS"}, "task type 'TOKEN_CLS', which has no task here"),
    "no task": (_changed, {"task_type": None}, "does not say which task"),
    "a newer option": (_changed, {"use_novelty": True}, "does not know the option use_novelty=True"),
    "of a changed base": (_changed, {"init_lora_weights": "pissa"}, "an update of a changed base"),
    "beyond deltas": (_changed, {"layer_replication": [[0, 2]]}, r"layers that occur twice can't be imported"),
    "targets that do not fit": (_changed, {"target_modules": ["nothing"]}, "can't be loaded on the base"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_folders_end_in_one_message(broken: str, lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    damage, options, message = BROKEN[broken]
    folder = _copy(lora, tmp_path / "in" / "peft")
    damage(folder, **options)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(PeftToolsError, match=message) as caught:
        pefttools.import_adapter(folder, tiny_bert, tmp_path / "artifact", labels=LABELS)
    assert caught.value.exit_code == 2
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "something was written"
    assert not (tmp_path / "in" / "ran").exists(), "code in the pickle ran"


@pytest.mark.parametrize("labels", [(), LABELS[:2], [*LABELS, "more"], ["a", "a", "b"], ["a", " ", "b"]])
def test_labels_that_do_not_match_the_head(labels: list[str], lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="labels"):
        pefttools.import_adapter(lora, tiny_bert, tmp_path / "artifact", labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_another_base(lora: Path, tiny_llama: str, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"10 of its 10 tensors belong to modules that the base does not have"
    ) as caught:
        pefttools.import_adapter(lora, tiny_llama, tmp_path / "artifact", labels=LABELS)
    assert "(llama)" in caught.value.message and "it names" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "kind", ["rank and alpha patterns", "biases of lora", "some layers and the pooler", "causal, with head and norms"]
)
def test_imported_adapters_are_merged_and_exported(kind: str, base: str, tmp_path: Path) -> None:
    chosen = KINDS[kind]
    artifact = tmp_path / "artifact"
    labels = LABELS if chosen.task == "SEQ_CLS" else ()
    folder = make(chosen, base, tmp_path / "peft")
    pefttools.import_adapter(folder, base, artifact, labels=labels)
    batch = dict(pefttools.load(artifact).tokenizer(["which card is it"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(chosen, base, folder, batch)
    merged = CLASSES[chosen.task].from_pretrained(pefttools.merge(artifact, tmp_path / "merged")).eval()
    with torch.no_grad():
        assert_close(merged(**batch).logits[0], wanted[0])
    assert pefttools.export(artifact, tmp_path / "exported") == 0
    assert_close(by_peft(chosen, base, tmp_path / "exported", batch)[0], wanted[0])


def test_it_is_evaluated_inspected_and_served_like_any_other(
    lora: Path, tiny_bert: str, intents: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(INTENTS[:3])
    manifest = pefttools.import_adapter(lora, tiny_bert, tmp_path / "one", labels=names, task={"max_length": 32})
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
    assert {entry["prediction"] for entry in found.predictions} <= set(names)
    inspect(tmp_path / "one", as_json=False, norms=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "base given by the user, not verified by the source" in shown and "low_rank" in shown
    assert "not verified by the source" in (tmp_path / "one" / "README.md").read_text()
    with pytest.raises(ConfigError, match="is an artifact already"):
        pefttools.import_adapter(lora, tiny_bert, tmp_path / "one", labels=names)
    with pytest.raises(ArtifactError, match="is an artifact already"):
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
    transposed = make(KINDS["transposed layers"], tiny_gpt2, tmp_path / "transposed")
    manifest = pefttools.import_adapter(transposed, tiny_gpt2, tmp_path / "b")
    assert manifest.task.config["max_length"] == 128 - manifest.task.config["max_new_tokens"]


def test_labels_of_configurations(lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    base = _copy(Path(tiny_bert), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "id2label": {"0": "x", "1": "y", "2": "z"}}))
    assert pefttools.import_adapter(lora, str(base), tmp_path / "a").task.labels == ["x", "y", "z"]
    folder = _copy(lora, tmp_path / "peft")
    (folder / "config.json").write_text(json.dumps({"id2label": {"2": "c", "0": "a", "1": "b"}}))
    manifest = pefttools.import_adapter(folder, str(base), tmp_path / "b")
    assert manifest.task.labels == ["a", "b", "c"]
    assert manifest.imported is not None and "config.json" in manifest.imported.files
    assert pefttools.import_adapter(folder, str(base), tmp_path / "c", labels=LABELS).task.labels == LABELS
    (folder / "config.json").write_text(json.dumps({"problem_type": "multi_label_classification"}))
    with pytest.raises(ConfigError, match="problem_type=multi_label_classification"):
        pefttools.import_adapter(folder, str(base), tmp_path / "d")


def test_a_head_that_nobody_holds(tiny_bert: str, tmp_path: Path) -> None:
    """A base without BERT's pooler: PEFT draws it anew at every load, and answers differently each time."""
    base = _copy(Path(tiny_bert), tmp_path / "base")
    state = {name: t for name, t in load_file(base / "model.safetensors").items() if not name.startswith("pooler.")}
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    folder = make(KINDS["lora"], str(base), tmp_path / "peft")
    with pytest.raises(ArtifactError, match=r"holds bert\.pooler\.dense\.weight, which the task's head needs"):
        pefttools.import_adapter(folder, str(base), tmp_path / "a", labels=LABELS)
    folder = make(KINDS["some layers and the pooler"], str(base), tmp_path / "with")
    assert pefttools.import_adapter(folder, str(base), tmp_path / "a", labels=LABELS).task.head == "model"


def test_a_task_that_the_source_does_not_say(tiny_llama: str, tmp_path: Path) -> None:
    kind = replace(KINDS["causal, with head and norms"], task="CAUSAL_LM")
    folder = make(kind, tiny_llama, tmp_path / "peft")
    _changed(folder, task_type=None)
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
    assert "is not a folder here and the hub did not give it" in " ".join(missing.stderr.replace("│", " ").split())


def test_a_real_encoder_on_real_rows(intents: dict[str, str], tmp_path: Path) -> None:
    """MiniLM with every kind of change at once; padded rows and one alone, by PEFT and by us."""
    kind = replace(
        KINDS["rank and alpha patterns"],
        options={
            "r": 8, "lora_alpha": 16, "use_rslora": True, "target_modules": "all-linear", "bias": "lora_only",
            "rank_pattern": {"query": 4}, "alpha_pattern": {"output.dense": 3}, "modules_to_save": ["pooler"],
        },
    )  # fmt: skip
    base = str(package_path(MINILM))
    folder = make(kind, base, tmp_path / "peft")
    pefttools.import_adapter(folder, MINILM, tmp_path / "artifact", labels=LABELS)
    model = pefttools.load(tmp_path / "artifact")
    rows = texts(intents["test"], 16)
    for padded in (rows, rows[:1]):
        batch = dict(model.tokenizer(padded, padding=True, return_tensors="pt"))
        batch.pop("token_type_ids", None)
        wanted = by_peft(kind, base, folder, batch)
        assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_embeddings_that_peft_stored_beside_the_adapter(tiny_llama: str, tmp_path: Path) -> None:
    """PEFT stores the base's own, where one is adapted: they are compared and left out. Others are refused."""
    kind = replace(
        KINDS["causal, with head and norms"],
        options={"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["input_layernorm"]},
    )
    folder = make(kind, tiny_llama, tmp_path / "peft", embeddings=True)
    before = load_file(folder / WEIGHTS)
    manifest = pefttools.import_adapter(folder, tiny_llama, tmp_path / "a")
    assert manifest.imported is not None
    assert manifest.imported.details["left_out"] == ["lm_head.weight"]
    after = load_file(tmp_path / "a" / WEIGHTS)
    assert before.keys() - after.keys() == {"base_model.model.lm_head.base_layer.weight"}
    assert manifest.parameters["trainable"] == sum(t.numel() for t in after.values())
    model = pefttools.load(tmp_path / "a")
    batch = dict(model.tokenizer(["a text"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(kind, tiny_llama, folder, batch)
    assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5
    before["base_model.model.lm_head.base_layer.weight"][0, 0] += 1
    save_file(before, folder / WEIGHTS)
    with pytest.raises(ArtifactError, match=r"holds lm_head\.weight whole, with other numbers than the base's"):
        pefttools.import_adapter(folder, tiny_llama, tmp_path / "b")


def test_a_configuration_of_an_old_peft(tiny_llama: str, intents: dict[str, str], tmp_path: Path) -> None:
    kind = KINDS["decoder's classifier"]
    folder = make(kind, tiny_llama, tmp_path / "peft")
    config = json.loads((folder / CONFIG).read_text())
    old = ("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
           "lora_dropout", "peft_type", "r", "target_modules", "task_type")  # fmt: skip
    (folder / CONFIG).write_text(json.dumps({**{key: config[key] for key in old}, "modules_to_save": None}))
    pefttools.import_adapter(folder, tiny_llama, tmp_path / "a", labels=LABELS)
    model = pefttools.load(tmp_path / "a")
    row = texts(intents["test"], 1)[0]
    batch = dict(model.tokenizer(row, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    assert (model.run_batch(batch) - by_peft(kind, tiny_llama, folder, batch)).abs().max() <= 1e-5
    pool = pefttools.AdapterPool(tiny_llama)
    pool.load("it", tmp_path / "a")
    assert_close(pool([row], ["it"])[0].logits, alone(model, row))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_number_formats(dtype: torch.dtype, lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    folder = _copy(lora, tmp_path / "peft")
    save_file({name: tensor.to(dtype) for name, tensor in load_file(lora / WEIGHTS).items()}, folder / WEIGHTS)
    manifest = pefttools.import_adapter(folder, tiny_bert, tmp_path / "a", labels=LABELS)
    assert manifest.storage == str(dtype).removeprefix("torch.")
    model = pefttools.load(tmp_path / "a")
    batch = dict(model.tokenizer(["which card is it"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(KINDS["lora"], tiny_bert, folder, batch)
    assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5
    pool = pefttools.AdapterPool(tiny_bert)
    pool.load("it", tmp_path / "a")
    assert_close(pool(["which card is it"], ["it"])[0].logits, wanted[0])


@pytest.mark.parametrize("kind", ["causal, with head and norms", "causal prefix, projected", "causal p-tuning"])
def test_it_generates_what_peft_generates(kind: str, base: str, intents: dict[str, str], tmp_path: Path) -> None:
    chosen = KINDS[kind]
    folder = make(chosen, base, tmp_path / "peft")
    pefttools.import_adapter(folder, base, tmp_path / "a", task={"template": "none"})
    model = pefttools.load(tmp_path / "a")
    pool = pefttools.AdapterPool(base)
    pool.load("it", tmp_path / "a")
    by_them = peft.PeftModel.from_pretrained(plain(base, chosen.task), str(folder)).eval()
    for row in texts(intents["test"], 2):
        batch = {name: t for name, t in model.tokenizer(row, return_tensors="pt").items() if name != "token_type_ids"}
        wanted = by_them.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0)
        wanted = wanted[:, -6:] if wanted.shape[1] > 6 else wanted
        found = model.generate(batch, max_new_tokens=6)
        assert found.tolist() == wanted.tolist()
        assert pool.generate_tokens([row], ["it"], max_new_tokens=6).tolist() == found.tolist()
