"""What is damaged, does not fit or can't be represented ends in one clear message, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.errors import ArtifactError, ConfigError, PeftToolsError

from .foreign import CONFIG, KINDS, LABELS, WEIGHTS, change_config, copy, make


def _truncated(folder: Path, **_: str) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def _without_configuration(folder: Path, **_: str) -> None:
    (folder / CONFIG).unlink()


def _without_weights(folder: Path, **_: str) -> None:
    (folder / WEIGHTS).unlink()


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
    "code in a pickle": (_pickle_with_code, {}, "could run arbitrary code"),
    "other shapes": (_other_shapes, {}, r"4 of its 10 tensors have the wrong shape, e\.g\. bert.*\(4, 32\).*\(4, 64\)"),
    "a tensor too few": (_one_tensor_too_few, {}, "1 tensors are missing, unknown or have the wrong shape"),
    "not finite": (_not_finite, {}, "has values that are not finite"),
    "no head": (
        _no_head,
        {},
        r"contains classifier\.weight, which the task's head needs: PEFT would initialise it at random",
    ),
    "unknown type": (change_config, {"peft_type": "NOVELTY"}, "PEFT's type 'NOVELTY' can't be imported"),
    "another type": (change_config, {"peft_type": "LOHA"}, "PEFT's type 'LOHA' can't be imported"),
    "no type": (change_config, {"peft_type": None}, "has no peft_type"),
    "another task": (change_config, {"task_type": "TOKEN_CLS"}, "task type 'TOKEN_CLS', which has no task here"),
    "no task": (change_config, {"task_type": None}, "does not say which task"),
    "a newer option": (change_config, {"use_novelty": True}, "does not know the option use_novelty=True"),
    "of a changed base": (change_config, {"init_lora_weights": "pissa"}, "an update of a changed base"),
    "beyond deltas": (change_config, {"layer_replication": [[0, 2]]}, r"layers that occur twice can't be imported"),
    "targets that do not fit": (change_config, {"target_modules": ["nothing"]}, "can't be loaded on the base"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_folders_end_in_one_message(broken: str, lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    damage, options, message = BROKEN[broken]
    folder = copy(lora, tmp_path / "in" / "peft")
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


def test_a_head_that_nobody_holds(tiny_bert: str, tmp_path: Path) -> None:
    """A base without BERT's pooler: PEFT draws it anew at every load, and answers differently each time."""
    base = copy(Path(tiny_bert), tmp_path / "base")
    state = {name: t for name, t in load_file(base / "model.safetensors").items() if not name.startswith("pooler.")}
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    folder = make(KINDS["lora"], str(base), tmp_path / "peft")
    with pytest.raises(ArtifactError, match=r"contains bert\.pooler\.dense\.weight, which the task's head needs"):
        pefttools.import_adapter(folder, str(base), tmp_path / "a", labels=LABELS)
    folder = make(KINDS["some layers and the pooler"], str(base), tmp_path / "with")
    assert pefttools.import_adapter(folder, str(base), tmp_path / "a", labels=LABELS).task.head == "model"
