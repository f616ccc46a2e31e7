"""Adapters that PEFT made become artifacts that answer as PEFT does, or are refused by one clear message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.errors import ArtifactError, ConfigError, PeftToolsError

from .foreign import KINDS, LABELS, by_peft, make, plain, texts
from .pool.makers import alone, assert_close

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
